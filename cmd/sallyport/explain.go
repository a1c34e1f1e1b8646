package main

import (
	"fmt"
	"io"
	"strings"

	"sallyport/policy/engine"
)

// writeExplanation tells a person why a decision came out as it did: for each
// field its value, and below it the rules and statements that led to it.
func writeExplanation(w io.Writer, e *engine.Explanation) {
	for _, f := range e.Fields {
		switch {
		case f.Value == "":
			fmt.Fprintf(w, "%s is undefined", f.Field)
		case f.Value == "set()":
			fmt.Fprintf(w, "%s is empty", f.Field)
		default:
			fmt.Fprintf(w, "%s is %s", f.Field, f.Value)
		}
		switch {
		case len(f.Rules) == 0:
			fmt.Fprintln(w)
			continue
		case !f.Rules[0].Holds:
			fmt.Fprint(w, ", since no rule for it holds")
		}
		fmt.Fprintln(w, ":")
		writeRules(w, f.Rules, f.More, "  ")
	}
}

func writeRules(w io.Writer, rules []engine.RuleReason, more int, indent string) {
	for _, r := range rules {
		outcome := "fails"
		if r.Holds {
			outcome = "holds"
			if len(r.Values) > 0 {
				outcome = "gives " + strings.Join(r.Values, ", ")
			}
		}
		fmt.Fprintf(w, "%s%s:%d: %s %s", indent, r.File, r.Line, r.Name, outcome)
		switch {
		case r.Told:
			fmt.Fprint(w, ", as told above")
		case !r.Holds && len(r.Statements) == 0:
			fmt.Fprint(w, ": its arguments do not fit")
		case len(r.Statements) == 1 && r.Statements[0].Line == r.Line: // a rule of one line
			fmt.Fprint(w, ": ")
			writeStatement(w, &r.Statements[0], indent)
			continue
		}
		fmt.Fprintln(w)
		writeStatements(w, r.Statements, indent+"  ")
	}
	if more > 0 {
		fmt.Fprintf(w, "%sand %d more rules\n", indent, more)
	}
}

func writeStatements(w io.Writer, statements []engine.StatementReason, indent string) {
	for i := range statements {
		s := &statements[i]
		fmt.Fprintf(w, "%s%s:%d: ", indent, s.File, s.Line)
		if !s.Holds {
			fmt.Fprint(w, "fails: ")
		}
		writeStatement(w, s, indent)
	}
}

// writeStatement prints the rest of the line, and below it what the names in
// the statement stood for and the rules that it asked.
func writeStatement(w io.Writer, s *engine.StatementReason, indent string) {
	fmt.Fprint(w, s.Text)
	if s.Tried > 1 {
		fmt.Fprintf(w, " (%d times)", s.Tried)
	}
	fmt.Fprintln(w)
	for _, b := range s.Values {
		values := strings.Join(b.Values, ", then ")
		if b.More {
			values += ", …"
		}
		fmt.Fprintf(w, "%s    %s = %s\n", indent, b.Name, values)
	}
	writeRules(w, s.Because, s.More, indent+"  ")
}
