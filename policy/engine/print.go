package engine

import (
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown/print"

	"sallyport/policy"
)

// maxPrinted bounds the text of one print, in bytes.
const maxPrinted = 1024

// Printed is what a rule printed by calling print in a decision.
type Printed struct {
	Stage    policy.Stage `json:"stage"`
	Session  string       `json:"-"` // its id; empty for a management call
	File     string       `json:"file"`
	Line     int          `json:"line"`
	Text     string       `json:"text"`               // at most 1 KiB and an ellipsis
	Withheld bool         `json:"withheld,omitempty"` // the stage reads a secret, so that there is no text
}

// printHook passes on what one evaluation prints.
type printHook struct {
	stage   *stage
	session string
	tell    func(*Printed)
}

// Print is called by OPA, with the text of a print whose arguments are joined.
// It never fails: a failure would fail the decision.
func (h *printHook) Print(c print.Context, text string) error {
	p := &Printed{Stage: h.stage.name, Session: h.session, Withheld: h.stage.withheld}
	if c.Location != nil {
		p.File, p.Line = c.Location.File, c.Location.Row
	}
	if !p.Withheld {
		p.Text = clippedTo(text, maxPrinted)
	}
	h.tell(p)
	return nil
}

// hasPrint tells whether a parsed module calls print.
func hasPrint(m *ast.Module) bool {
	found := false
	walkRules(m, func(t *ast.Term, _ *ast.Location, _ bool) {
		found = found || builtinName(t) == ast.Print.Name
	})
	return found
}

// judgePrints looks at what a stage prints. The compiler is one that keeps
// calls of print; rules are those that the stage's fields reach in it.
func (j *judging) judgePrints(out *stageJudged, stage policy.Stage, rules map[*ast.Rule]bool) {
	root := policy.Input(stage)
	for rule := range rules {
		walkRule(rule, func(t *ast.Term, at *ast.Location, _ bool) {
			r, ok := t.Value.(ast.Ref)
			switch {
			case !ok:
			case builtinName(t) == ast.InternalPrint.Name:
				out.prints = true
			case r[0].Equal(ast.InputRootDocument) && len(r) > 1:
				j.checkFact(stage, root, r, at)
			case r[0].Equal(ast.DefaultRootDocument) && holdsHashes(r):
				out.hashes = true
			}
		})
	}
	if out.prints {
		out.printed = inputReads(rules)
	}
}

// holdsHashes tells whether a path of data may lead to the password of a user.
func holdsHashes(r ast.Ref) bool {
	for i, name := range []string{"users", "", "password"} {
		if len(r) == i+1 {
			return true
		}
		if s, ok := r[i+1].Value.(ast.String); ok && name != "" && string(s) != name {
			return false
		}
	}
	return true
}
