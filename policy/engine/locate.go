package engine

import "sallyport/policy"

// located says what a stage's rules want to have gathered for them: which
// addresses are to be located, and whether the client's process is to be found and
// the upstreams' state and the identity's usage asked for.
type located struct{ source, target, address, process, upstreams, usage bool }

func locatedBy(read *plan) located {
	geo := func(fact string) bool { return read.has([]string{fact, "geo"}) }
	return located{
		source: geo("source"), target: geo("target"), address: geo("address"),
		process: read.has([]string{"source", "process"}), upstreams: read.has([]string{"upstreams"}),
		usage: read.has([]string{"identity", "usage"}),
	}
}

// locate fills in the geo, the process, the upstreams and the usage that the stage's rules
// read, each address looked up once. What it returns is the asker's facts or, since those are not ours to
// write to, a copy that release takes back. Memo key, input and log are all made
// of that copy, so that they agree although databases are replaced meanwhile,
// and it goes by the very snapshot that answers.
func (e *Engine) locate(st *stage, asked *policy.Facts) *policy.Facts {
	want := st.located
	if asked.Locator == nil {
		want = located{process: want.process, upstreams: want.upstreams, usage: want.usage}
	}
	want.process = want.process && asked.Client != nil
	want.upstreams = want.upstreams && asked.Ways != nil
	want.usage = want.usage && asked.Account != nil
	if want == (located{}) {
		return asked
	}
	facts := e.copies.Get().(*policy.Facts)
	*facts = *asked
	if want.process {
		facts.Source.Process = asked.Client.Process()
	}
	if want.upstreams {
		facts.Upstreams = asked.Ways.Upstreams()
	}
	if want.usage {
		facts.Identity.Usage = asked.Account.Usage()
	}
	if want.source {
		facts.Source.Geo = geoOf(facts.Source.IP, asked.Locator)
	}
	if want.target {
		facts.Target.Geo = geoOf(facts.Target.IP, asked.Locator)
	}
	switch {
	case !want.address:
	case want.target && facts.Address.IP == facts.Target.IP:
		facts.Address.Geo = facts.Target.Geo
	default:
		facts.Address.Geo = geoOf(facts.Address.IP, asked.Locator)
	}
	return facts
}

// release ends the use of what locate returned for asked.
func (e *Engine) release(facts, asked *policy.Facts) {
	if facts != asked {
		*facts = policy.Facts{}
		e.copies.Put(facts)
	}
}

// geoOf is empty for what is no address: a name, or a client on a unix socket.
func geoOf(ip policy.IP, locator policy.Locator) policy.Geo {
	if !ip.IsValid() {
		return policy.Geo{}
	}
	return locator.Locate(ip.Addr)
}
