package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"sallyport/policy"
	"sallyport/policy/distribute"
	"sallyport/policy/engine"
	"sallyport/proxy/config"
	"sallyport/proxy/geo"
	"sallyport/proxy/identity"
	"sallyport/proxy/wire/target"
)

// engineOptions are what the configuration says to the engine, and which geo
// facts there will be. Without databases, nil, nothing is said of those. whole
// tells that the policy is for this configuration, and not perhaps for one that is
// elsewhere: then no upstreams are none.
func engineOptions(c *config.Config, d *geo.Databases, whole bool) engine.Options {
	o := engine.Options{
		Timeout: c.Policy.Timeout, Lenient: !c.Policy.Strict,
		Roots: c.Policy.Roots, Capabilities: c.Policy.Capabilities,
		CheckData: func(data map[string]any) []error {
			_, errs := identity.Parse(data["users"])
			return errs
		},
		IsHost: func(host string) bool {
			_, err := target.Parse(host)
			return err == nil
		},
	}
	if d != nil {
		o.Missing = missing(d)
	}
	if whole || len(c.Upstreams) > 0 {
		o.Upstreams = slices.AppendSeq([]string{}, maps.Keys(c.Upstreams))
		slices.Sort(o.Upstreams)
	}
	if len(c.Listeners) > 1 || c.Listeners[0].Name != "main" {
		for _, l := range c.Listeners {
			o.Listeners = append(o.Listeners, l.Name)
		}
	}
	for _, name := range c.Policy.Stages {
		o.Required = append(o.Required, policy.Stage(name))
	}
	return o
}

// candidate loads and judges what the configuration names.
func candidate(e *engine.Engine, c *config.Config) (*engine.Snapshot, engine.Problems, error) {
	loaded, err := loadPolicy(c)
	if err != nil {
		return nil, nil, err
	}
	snapshot, problems := e.Compile(loaded)
	if snapshot == nil {
		return nil, problems, problems
	}
	return snapshot, problems, nil
}

// checkOPA judges OPA's own configuration as far as that goes without asking
// anybody, and says where in the file a problem is.
func checkOPA(c *config.Config) error {
	var found distribute.KeyProblems
	if err := distribute.CheckOPA(c.Policy.OPA, opaTerms(c)); !errors.As(err, &found) {
		return err
	}
	var problems config.Problems
	for _, p := range found {
		problems = append(problems, c.Problem(p.Key, p.Message))
	}
	slices.SortStableFunc(problems, func(a, b config.Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return problems
}

// awaitsBundles tells whether the files are only a part of the policy.
func awaitsBundles(c *config.Config) bool {
	bundles, _ := c.Policy.OPA["bundles"].(map[string]any)
	return len(bundles) > 0 || c.Policy.OPA["discovery"] != nil
}

// unloaded is what a command has to say of a policy that is judged without the
// bundles that it awaits.
const unloaded = "the bundles of policy.opa are not loaded here"

func opaTerms(c *config.Config) distribute.Terms {
	return distribute.Terms{
		Roots: c.Policy.Roots, Secrets: c.Secrets(), LogWaits: c.Policy.DecisionLog.WhenFull == config.Wait,
	}
}

// managerOptions are what the configuration says about bringing policy in.
func (s *server) managerOptions() distribute.Options {
	c := s.config.Policy
	return distribute.Options{
		OPA: c.OPA, Terms: opaTerms(s.config), Paths: c.Paths, Data: c.Data, Decrypt: s.config.Decrypt,
		RunTests: c.RunTests, Deltas: c.Deltas, MaxAge: c.MaxAge,
		Log: s.log, Check: s.forward, Decided: s.decided, Expired: s.expired,
	}
}

// logOptions are what the configuration says of the decision log, but for where
// it goes: the manager knows.
func (s *server) logOptions() distribute.LogOptions {
	o := distribute.LogOptions{Output: os.Stdout, Log: s.log}
	if s.config.Policy.DecisionLog.WhenFull == config.Wait {
		o.Wait = s.config.Policy.Timeout
	}
	return o
}

// decided makes a policy that was found good the one that answers, by whatever
// way it came, and tells of one that was refused. What is refused changes nothing.
func (s *server) decided(o *distribute.Outcome) {
	for _, p := range o.Problems {
		if p.Warning {
			s.log.Warn("policy", "problem", p.String())
		}
	}
	if o.Snapshot == nil {
		s.telemetry.Activated("refused")
		s.judged(o)
		if o.Trigger != "start" { // the program ends, and says so
			s.log.Error("policy refused; the active one stays", "error", o.Err.Error(), "trigger", o.Trigger)
		}
		return
	}
	users, _ := identity.Parse(o.Snapshot.Data("users")) // the engine's check has seen the errors
	if hidden := s.users.SetPolicy(users); len(hidden) > 0 {
		const few = 10
		s.log.Warn("users of the store are hidden by those of data.users", "count", len(hidden), "names", hidden[:min(len(hidden), few)])
	}
	s.engine.Activate(o.Snapshot)
	if s.decisions != nil {
		s.decisions.Follow(o.Snapshot)
	}
	s.proxy.Reask(o.Revision) // the last to be told: everybody answers by then
	s.telemetry.Activated("ok")
	s.judged(o)
	s.log.Info("policy active", "policy.revision", o.Revision, "audit.hash", s.audit.Head())
}

// expired has every request refused while the policy is too old.
func (s *server) expired(why error) {
	s.engine.Suspend(why)
	if why != nil {
		s.log.Error("the policy is too old: nothing is allowed any more", "error", why.Error())
		return
	}
	s.log.Info("the policy is young enough again")
}

func (s *server) ready() error {
	switch {
	case s.draining.Load():
		return errors.New("draining")
	case s.engine.Active() == nil:
		if err := s.manager.Ready(); err != nil {
			return fmt.Errorf("no policy is active: %w", err)
		}
		return errors.New("no policy is active")
	}
	return s.engine.Suspended()
}

// policy is what /v1/policy shows.
func (s *server) policy() any {
	type stage struct {
		Stage   policy.Stage `json:"stage"`
		Default bool         `json:"default"`
		Fields  []string     `json:"fields"`
	}
	var view struct {
		Revision  string    `json:"revision"`
		Activated time.Time `json:"activated"`
		Stages    []stage   `json:"stages"`
		Refusal   string    `json:"refusal,omitempty"` // why the latest candidate was refused

		Bundles []distribute.BundleState `json:"bundles,omitempty"`
		Awaited []string                 `json:"awaited,omitempty"` // sources without which nothing new becomes active
		GeoIP   []geoDatabase            `json:"geoip,omitempty"`
	}
	view.GeoIP = s.geoDatabases()
	if active := s.engine.Active(); active != nil {
		view.Revision, view.Activated = active.Revision(), active.Activated()
		for _, i := range active.Stages() {
			view.Stages = append(view.Stages, stage{i.Stage, i.ByDefault, i.Fields})
		}
	}
	state := s.manager.State()
	view.Refusal, view.Bundles, view.Awaited = state.Refusal, state.Bundles, state.Awaited
	return view
}
