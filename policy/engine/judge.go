package engine

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"
	"github.com/open-policy-agent/opa/v1/ast"

	"sallyport/policy"
)

// judged is a candidate that may decide.
type judged struct {
	compiler *ast.Compiler                // of the user's modules without tests, and of the default policy's for the stages that the user leaves out
	data     map[string]any               // every document, merged; it shares its values with the documents
	stages   map[policy.Stage]stageJudged // those that are asked
}

// stageJudged is what judging found out about a stage.
type stageJudged struct {
	byDefault bool      // the embedded default policy answers
	fields    []string  // the field rules that exist, in the order of [policy.Fields]: only those are queried
	reads     []ast.Ref // every path of input that those fields read, and perhaps more
	pure      bool      // equal facts give equal decisions
	all       bool      // it reads input as a whole: no list of facts is complete
	prints    bool      // it calls print
	printed   []ast.Ref // every path of input that is read in order to be printed, and those in reads
	hashes    bool      // it reads the password hashes of data.users
}

// judge compiles a candidate and finds everything that is wrong with it.
// defaults are the modules of the embedded default policy. What it returns
// first is nil when the problems are fatal. It never panics: a panic of OPA's
// compiler is a problem of the candidate.
func judge(c *Candidate, o Options, defaults []Module) (verdict *judged, problems Problems) {
	j := &judging{candidate: c, options: o, keys: map[string]bool{}, stages: map[policy.Stage]*stageRules{}}
	defer func() {
		if cause := recover(); cause != nil {
			j.problems = append(j.problems, Problem{Message: fmt.Sprintf("the policy cannot be compiled: %v", cause)})
			verdict, problems = nil, j.sorted()
		}
	}()

	j.checkBundles()
	j.mergeDocuments()
	j.parse()
	for _, m := range j.modules {
		if !m.test {
			j.checkModuleRoots(m)
			j.checkNames(m)
			j.checkDataConflicts(m)
		}
	}
	j.checkStages()
	j.checkUpstreams()
	// What cannot be parsed would show again as something undefined.
	if !j.unparsed {
		j.addDefaults(defaults)
		if !j.candidate.Partial { // whose settings they are is not known yet
			j.checkSettings()
		}
		verdict = j.compile()
	}

	problems = j.sorted()
	if problems.Fatal() {
		return nil, problems
	}
	return verdict, problems
}

// judging is one run of judge.
type judging struct {
	candidate *Candidate
	options   Options
	modules   []*module       // the user's, tests included; then those of the default policy that are needed
	keys      map[string]bool // of the modules
	unparsed  bool            // some module could not be parsed
	data      map[string]any
	stages    map[policy.Stage]*stageRules
	problems  Problems
	compiler  Problems // what OPA found: it yields to what we say of the same line
}

// module is a module that could be parsed.
type module struct {
	key       string // in the compiler
	bundle    string
	parsed    *ast.Module
	test      bool // its package ends in _test
	byDefault bool // of the embedded default policy
}

// stageRules is what the candidate has for a stage.
type stageRules struct {
	byDefault bool
	pkg       *ast.Location          // of the first module whose package it is
	fields    map[string][]*ast.Rule // as parsed, by field
	mistyped  map[string]bool        // the fields whose literals are wrong
}

func (j *judging) refuse(at *ast.Location, format string, args ...any) {
	j.problems = append(j.problems, problemAt(at, fmt.Sprintf(format, args...)))
}

func (j *judging) warn(at *ast.Location, format string, args ...any) {
	p := problemAt(at, fmt.Sprintf(format, args...))
	p.Warning = true
	j.problems = append(j.problems, p)
}

func problemAt(at *ast.Location, message string) Problem {
	if at == nil {
		return Problem{Message: message}
	}
	return Problem{File: at.File, Row: at.Row, Column: at.Col, Message: message}
}

// sorted is every problem once, in the order of files and rows. OPA's own
// errors are left out where we have refused something in the same line, and
// after the first at one place: they tell the same in other words.
func (j *judging) sorted() Problems {
	type place struct {
		file        string
		row, column int
	}
	told := map[place]bool{}
	for _, p := range j.problems {
		if !p.Warning {
			told[place{p.File, p.Row, 0}] = true
		}
	}
	all := slices.Clone(j.problems)
	for _, p := range j.compiler {
		at := place{p.File, p.Row, p.Column}
		if p.Row == 0 || !told[place{p.File, p.Row, 0}] && !told[at] {
			told[at] = true
			all = append(all, p)
		}
	}
	slices.SortStableFunc(all, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Row, b.Row), cmp.Compare(a.Column, b.Column), cmp.Compare(a.Message, b.Message))
	})
	return slices.Compact(all)
}

// didYouMean is a suggestion for a misspelt name, or nothing where no known
// name is near.
func didYouMean(name string, known []string) string {
	near := nearest(name, known)
	if near == "" {
		return ""
	}
	return fmt.Sprintf(": did you mean %s?", near)
}

func nearest(name string, known []string) string {
	// Two letters for four and more, one for three, none below.
	limit := min(max(len(name)-2, 0), 2)
	if limit == 0 {
		return ""
	}
	best := ""
	for _, k := range known {
		if len(k) > len(name)+limit || len(name) > len(k)+limit {
			continue
		}
		if d := levenshtein.ComputeDistance(strings.ToLower(name), k); d <= limit {
			best, limit = k, d-1
		}
	}
	return best
}

// list is "a, b and c".
func list[T ~string](names []T) string {
	var b strings.Builder
	for i, name := range names {
		switch {
		case i == 0:
		case i == len(names)-1:
			b.WriteString(" and ")
		default:
			b.WriteString(", ")
		}
		b.WriteString(string(name))
	}
	return b.String()
}
