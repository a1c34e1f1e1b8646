package main

import (
	"cmp"
	"fmt"
	"path/filepath"
	"strings"

	"sallyport/policy/audit"
	"sallyport/policy/engine"
	"sallyport/proxy/config"
)

// auditFile is where the record of policies is.
func auditFile(c *config.Config) string {
	return cmp.Or(c.Policy.Audit, filepath.Join(filepath.Dir(c.State.Path), "sallyport-audit.jsonl"))
}

// openAudit opens the record of policies. One that does not hold, or that another
// process writes to, ends the start; one that there is no room for does not.
func (s *server) openAudit() error {
	var err error
	s.audit, err = audit.OpenLog(auditFile(s.config), version)
	if s.audit == nil {
		return fmt.Errorf("policy.audit: %w", err)
	}
	if err != nil {
		s.log.Error("a policy's record is not written", "error", err)
	}
	s.record(audit.Record{Outcome: audit.Started})
	return nil
}

// record adds to the record of policies. What cannot be written is an alarm: it
// keeps no policy from being in force.
func (s *server) record(r audit.Record) {
	if err := s.audit.Append(r); err != nil {
		s.log.Error("a policy's record is not written", "outcome", string(r.Outcome), "policy.revision", r.Revision, "error", err)
	}
}

// judged records what became of a policy that by brought: problems are the
// warnings, or err is why it was refused.
func (s *server) judged(by, revision string, problems engine.Problems, err error) {
	r := audit.Record{Outcome: audit.Activated, By: by, Revision: revision}
	if err != nil {
		r.Outcome = audit.Refused
		r.Problems = strings.Split(err.Error(), "\n")
	} else {
		for _, p := range problems {
			r.Problems = append(r.Problems, p.String())
		}
	}
	s.record(r)
}
