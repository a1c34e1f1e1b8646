package main

import (
	"sallyport/proxy/store"
	"sallyport/proxy/usage"
)

// usageStore is the state file as the ledger wants it.
type usageStore struct{ *store.File }

func (s usageStore) Write(changes []usage.Change) error {
	all := make([]store.Change, len(changes))
	for i, c := range changes {
		all[i] = store.Change(c)
	}
	return s.Apply(all...)
}

// openUsage goes on with what was used before.
func (s *server) openUsage() error {
	c := &s.config.State.Usage
	var err error
	s.usage, err = usage.Open(usage.Options{
		Retention: c.Retention, Rows: c.Rows, Identities: guarded, Store: usageStore{s.state}, Log: s.log,
	})
	if err != nil {
		return failure{s.problem("state.path", err)}
	}
	return nil
}
