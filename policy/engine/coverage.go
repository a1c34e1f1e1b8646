package engine

import (
	"context"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Coverage is how much of a policy its tests reach. The tests themselves are
// not part of it.
type Coverage struct {
	Files      []FileCoverage `json:"files"` // by name
	Covered    int            `json:"covered_lines"`
	NotCovered int            `json:"not_covered_lines"`
	Percent    float64        `json:"coverage"` // 100 where there is nothing to cover, but 0 without tests
}

// FileCoverage is how much of a file is reached. A line counts where a rule
// begins on it or a statement is on it.
type FileCoverage struct {
	File            string  `json:"file"`
	Covered         []Lines `json:"covered"`
	NotCovered      []Lines `json:"not_covered"`
	CoveredLines    int     `json:"covered_lines"`
	NotCoveredLines int     `json:"not_covered_lines"`
	Percent         float64 `json:"coverage"`
}

// Lines are lines of a file, from the first to the last.
type Lines struct {
	From int `json:"from"`
	To   int `json:"to"`
}

func (r *testRun) coverage() *Coverage {
	policies := map[string]*ast.Module{}
	for key, m := range r.modules {
		if !isTest(packageOf(m)) {
			policies[key] = m
		}
	}
	report := r.reached.cover.Report(policies)
	out := &Coverage{Files: []FileCoverage{}}
	for _, key := range sortedKeys(policies) {
		f := FileCoverage{File: key, Covered: []Lines{}, NotCovered: []Lines{}}
		found := report.Files[key]
		if found == nil {
			continue
		}
		covered, not := map[int]bool{}, map[int]bool{}
		for _, at := range found.Covered {
			for row := at.Start.Row; row <= at.End.Row; row++ {
				covered[row] = true
			}
		}
		for _, at := range found.NotCovered {
			for row := at.Start.Row; row <= at.End.Row; row++ {
				not[row] = true
			}
		}
		// Of a line that is reached in part, the other part is what matters.
		for row := range not {
			delete(covered, row)
		}
		f.Covered, f.NotCovered = linesOf(covered), linesOf(not)
		f.CoveredLines, f.NotCoveredLines = len(covered), len(not)
		f.Percent = percent(f.CoveredLines, f.NotCoveredLines)
		out.Covered += f.CoveredLines
		out.NotCovered += f.NotCoveredLines
		out.Files = append(out.Files, f)
	}
	out.Percent = percent(out.Covered, out.NotCovered)
	return out
}

func percent(covered, not int) float64 {
	if covered+not == 0 {
		return 100
	}
	return 100 * float64(covered) / float64(covered+not)
}

func linesOf(rows map[int]bool) []Lines {
	out := []Lines{}
	sorted := make([]int, 0, len(rows))
	for row := range rows {
		sorted = append(sorted, row)
	}
	slices.Sort(sorted)
	for _, row := range sorted {
		if n := len(out); n > 0 && out[n-1].To == row-1 {
			out[n-1].To = row
		} else {
			out = append(out, Lines{row, row})
		}
	}
	return out
}

// unreached are the rules that no test has seen hold. A default and a rule
// that always gives the same have nothing to be tested.
func (r *testRun) unreached() Problems {
	var out Problems
	for _, key := range sortedKeys(r.modules) {
		m := r.modules[key]
		if isTest(packageOf(m)) {
			continue
		}
		ast.WalkRules(m, func(rule *ast.Rule) bool {
			at := rule.Head.Location
			if rule.Default || isConstant(rule) || at == nil || r.reached.held[place{at.File, at.Offset}] {
				return false
			}
			p := problemAt(at, "no test sees this rule of "+strings.TrimPrefix(rule.Ref().GroundPrefix().String(), "data.")+" hold")
			p.Advice = true
			out = append(out, p)
			return false
		})
	}
	return out
}

// isConstant tells a rule without conditions whose value is written out.
func isConstant(rule *ast.Rule) bool {
	if len(rule.Head.Args) > 0 || len(rule.Body) != 1 || rule.Else != nil || rule.Body[0].String() != "true" {
		return false
	}
	constant := true
	ast.WalkTerms(rule.Head, func(t *ast.Term) bool {
		switch v := t.Value.(type) {
		case ast.Ref:
			constant = constant && len(v) == 1 || isHead(rule, v)
		case ast.Call:
			constant = false
		}
		return false
	})
	return constant
}

func isHead(rule *ast.Rule, ref ast.Ref) bool { return rule.Head.Reference.Equal(ref) }

// Advise says what works but could be better, of a candidate that has been
// compiled into a snapshot: look-ups that slow down as data grows, and rules
// that none of its tests sees hold; of a candidate without tests one problem
// tells that, unless it is partial. Every problem has Advice set.
func (e *Engine) Advise(ctx context.Context, c *Candidate, s *Snapshot) (Problems, error) {
	j := &judging{candidate: c, options: e.options, keys: map[string]bool{}}
	j.mergeDocuments()
	j.parse()
	var own []*ast.Module
	for _, m := range j.modules {
		if !m.test && s.compiler.Modules[m.key] != nil {
			own = append(own, s.compiler.Modules[m.key])
		}
	}
	j.problems = nil // those of the candidate are known
	advise := func(at *ast.Location, message string) {
		p := problemAt(at, message)
		p.Advice = true
		j.problems = append(j.problems, p)
	}
	look := flatness{compiler: s.compiler, data: j.data, found: advise}
	not := negations{compiler: s.compiler, data: j.data, found: advise}
	for _, m := range own {
		look.heads(m.Rules)
		for _, rule := range m.Rules {
			look.rule(rule)
			not.rule(rule)
		}
	}

	run := e.testRun(s)
	report, err := run.run(ctx, c, TestOptions{Coverage: true})
	if err != nil {
		return nil, err
	}
	switch unreached := run.unreached(); {
	case report.Found > 0:
		j.problems = append(j.problems, unreached...)
	case len(unreached) > 0 && !c.Partial:
		j.problems = append(j.problems, Problem{Message: "there are no tests: " + NoTests, Advice: true})
	}
	return j.sorted(), nil
}
