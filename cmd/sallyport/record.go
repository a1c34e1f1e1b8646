package main

import (
	"cmp"
	"fmt"
	"path/filepath"
	"strings"

	"sallyport/policy/audit"
	"sallyport/policy/distribute"
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
		return s.recordProblem(err)
	}
	if err != nil && s.ordered() {
		return s.recordProblem(fmt.Errorf("%w; without it an older bundle would not be known after the next start (policy.rollback: allow does without)", err))
	}
	if err != nil {
		s.log.Error("a policy's record is not written", "error", s.recordProblem(err))
	}
	s.record(audit.Record{Outcome: audit.Started})
	return nil
}

// ordered tells whether bundles have to come in order.
func (s *server) ordered() bool {
	opa := s.config.Policy.OPA
	return s.config.Policy.Rollback == config.Refuse && (opa["bundles"] != nil || opa["discovery"] != nil)
}

// record adds to the record of policies. What cannot be written is an alarm: it
// keeps no policy from being in force.
func (s *server) record(r audit.Record) {
	if err := s.audit.Append(r); err != nil {
		s.log.Error("a policy's record is not written", "outcome", string(r.Outcome), "policy.revision", r.Revision, "error", s.recordProblem(err))
	}
}

// recordProblem is an error of the record's file, with the setting that says where it is.
func (s *server) recordProblem(err error) error {
	if s.config.Policy.Audit == "" {
		return s.problem("state.path", err)
	}
	return s.problem("policy.audit", err)
}

// judged records what became of a policy.
func (s *server) judged(o *distribute.Outcome) {
	r := audit.Record{Outcome: audit.Activated, By: o.Trigger, Revision: o.Revision, Digest: o.Digest}
	for i := range o.Bundles {
		source, err := sourceOf(&o.Bundles[i])
		if err != nil {
			source.Sequence = nil // it is why the policy was refused
		}
		r.Sources = append(r.Sources, source)
	}
	for _, p := range o.Problems {
		r.Problems = append(r.Problems, p.String())
	}
	if o.Snapshot == nil {
		r.Outcome = audit.Refused
		r.Problems = strings.Split(o.Err.Error(), "\n")
	}
	s.record(r)
}

// forward refuses a bundle that is older than one that was active before it.
func (s *server) forward(b distribute.Arrived) error {
	source, err := sourceOf(&b)
	if err != nil || s.config.Policy.Rollback == config.Allow {
		return err
	}
	history, known := s.audit.History(b.Name)
	return distribute.Forward(&history, known, &source)
}

func sourceOf(b *distribute.Arrived) (audit.Source, error) {
	sequence, err := distribute.Sequence(b.Metadata)
	return audit.Source{Name: b.Name, From: b.Source, Revision: b.Revision, Sequence: sequence, Digest: b.Digest, KeyID: b.KeyID}, err
}
