package relay

// Late is what the target sent before the flow began, as some do through a proxy
// whose answer is read together with it. It goes to the client first, and is
// counted like the rest. To be called before Start.
func (f *Flow) Late(p []byte) { f.late = p }
