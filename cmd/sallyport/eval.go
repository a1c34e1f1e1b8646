package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"sallyport/policy"
	"sallyport/policy/engine"
	"sallyport/proxy/config"
	"sallyport/proxy/identity"
)

func evalCommand() *cobra.Command {
	var o *config.Options
	var q question
	var explain, fail bool
	c := &cobra.Command{
		Use:   "eval STAGE",
		Short: "Take one decision, and say why",
		Long: `Take one decision of a stage (` + stageNames() + `)
as the proxy would take it, on the configured policy, and print the verdict (allow,
deny, or fault where the policy fails) and each field that the stage gives. A decision
with a ban is refused by the proxy, whatever the verdict is, and that is told.

The facts come from --input, from flags, or from both, and then flags win. What is
missing has its empty value, as the policy reference has it; the time is now. What
follows from an address or a name (family, prefixes, scope, kind, suffixes) is worked
out unless it is given. A fact that the stage does not have is refused.

--user takes a user's groups and attributes from data.users, as they are after a right
password, --method certificate+password included; --group and --attribute replace
them. Users that are written while a server runs, in its state, are not known here: give
theirs by flags. With the methods certificate and none nobody is looked up, as in the
proxy: the name is the certificate's, or a claim, and has no groups. What a rule of
authenticate would change about the identity is not known either: give it by flags.

Bundles of policy.opa are not loaded. What would come from them is not answered by the
default policy instead: such a question is refused. Give their policy with --policy.

--explain names the rules that led to the decision, by file and line. For what is
allowed and for each reason against it: the rules that hold, and in each statement
what its names stood for. For what is not allowed: each rule for allow, the statement
at which it failed, and why.

Exit status: 0 the decision was taken, whatever it is; 1 it is a fault or, with --fail,
a denial or a ban; 2 the policy or the question is refused.`,
		Example: `  sallyport eval route --user alice --target api.example.com:443 --policy policies/
  sallyport eval route --source 10.0.0.7 --group dev --target 203.0.113.9:22 --explain
  sallyport eval dial --target db.example.com:5432 --address 10.20.30.40
  sallyport eval authenticate --user alice --verified=false --source 198.51.100.7
  sallyport eval manage --call 'DELETE /v1/sessions/1' --caller ops --role admin
  sallyport eval route --input request.json --format json
  jq .input decision.json | sallyport eval route --input - --explain`,
		ValidArgs: slices.Collect(stagesAsText),
		Args:      oneStage,
		RunE: func(c *cobra.Command, args []string) error {
			return eval(c, o, &q, policy.Stage(args[0]), explain, fail)
		},
	}
	o = configFlags(c)
	q.flags(c)
	c.Flags().BoolVar(&explain, "explain", false, "name the rules and lines that led to the decision")
	c.Flags().BoolVar(&fail, "fail", false, "exit with 1 unless the request is allowed, and nobody banned")
	return c
}

// decided is what eval prints as JSON.
type decided struct {
	Stage       policy.Stage        `json:"stage"`
	Verdict     string              `json:"verdict"`
	Revision    string              `json:"revision"`
	Banned      string              `json:"banned,omitempty"` // by which the request is refused as well: source, identity or a prefix
	Default     bool                `json:"default"`          // the embedded default policy answered
	Error       string              `json:"error,omitempty"`
	Fields      map[string]any      `json:"fields"`
	Input       any                 `json:"input"` // the facts that the stage reads and those that are always logged
	Printed     []engine.Printed    `json:"printed,omitempty"`
	Explanation *engine.Explanation `json:"explanation,omitempty"`
}

func eval(c *cobra.Command, o *config.Options, q *question, stage policy.Stage, explain, fail bool) error {
	settings, err := load(c, o)
	if err != nil {
		return err
	}
	databases, err := openGeo(settings)
	if err != nil {
		return err
	}
	e, err := engine.New(engineOptions(settings, databases, o.File != ""))
	if err != nil {
		return err
	}
	defer e.Close()
	snapshot, _, err := candidate(e, settings)
	if err != nil {
		return err
	}
	byDefault := slices.ContainsFunc(snapshot.Stages(), func(i engine.StageInfo) bool { return i.Stage == stage && i.ByDefault })
	switch awaited := awaitsBundles(settings); {
	case awaited && (byDefault || !snapshot.Defines(stage)):
		return fmt.Errorf("the stage %s is left to bundles, and %s: give their policy with --policy", stage, unloaded)
	case !snapshot.Defines(stage):
		return fmt.Errorf("the stage %s is not asked by this policy", stage)
	case awaited:
		fmt.Fprintf(c.ErrOrStderr(), "sallyport: %s: their rules and data are missing\n", unloaded)
	}
	users, errs := identity.Parse(snapshot.Data("users"))
	if len(errs) > 0 {
		return errors.Join(errs...) // the engine's check has seen them already
	}
	facts, notes, err := q.facts(c, stage, users, databases)
	if err != nil {
		return err
	}
	for _, note := range notes {
		fmt.Fprintln(c.ErrOrStderr(), "sallyport:", note)
	}

	found := e.Evaluate(c.Context(), snapshot, stage, facts, explain)
	d := &found.Decision
	out := decided{
		Stage: stage, Verdict: d.Verdict.String(), Revision: d.Revision, Fields: found.Fields, Input: found.Input,
		Printed: found.Printed, Explanation: found.Explanation, Banned: bannedBy(d), Default: byDefault,
	}
	if d.Err != nil {
		out.Error = d.Err.Error()
	}
	if err := print(c, out.text(), out); err != nil {
		return failure{err}
	}
	if d.Verdict == policy.Fault || fail && (!d.Allowed() || out.Banned != "") {
		return failure{errReported}
	}
	return nil
}

// bannedBy is whom a decision bans, as the proxy reads it: "source", "identity" or a
// prefix; "": nobody.
func bannedBy(d *policy.Decision) string {
	switch {
	case d.Verdict == policy.Fault || d.Ban.For == 0:
		return ""
	case d.Ban.Identity:
		return "identity"
	case d.Ban.Prefix.IsValid():
		return d.Ban.Prefix.String()
	}
	return "source"
}

// text is the decision for a person.
func (d *decided) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s by %s of %s", d.Verdict, d.Stage.Package(), d.Revision)
	if d.Default && d.Revision != "default" {
		b.WriteString(", which leaves the stage to the default policy")
	}
	b.WriteByte('\n')
	switch d.Banned {
	case "":
	case "source", "identity":
		fmt.Fprintf(&b, "  refused whatever allow says, by the ban of the %s\n", d.Banned)
	default:
		fmt.Fprintf(&b, "  refused whatever allow says, by the ban of %s\n", d.Banned)
	}
	if d.Error != "" {
		fmt.Fprintf(&b, "  %s\n", strings.ReplaceAll(d.Error, "\n", "\n  "))
	}
	width := 0
	for name := range d.Fields {
		width = max(width, len(name))
	}
	for _, f := range policy.Fields() {
		value, ok := d.Fields[f.Name]
		if !ok {
			continue
		}
		text, err := json.Marshal(value)
		if err != nil {
			text = []byte(err.Error()) // it came from JSON
		}
		fmt.Fprintf(&b, "  %-*s  %s\n", width, f.Name, text)
	}
	for _, p := range d.Printed {
		text := p.Text
		if p.Withheld {
			text = "(withheld: the stage reads a secret)"
		}
		fmt.Fprintf(&b, "printed at %s:%d: %s\n", p.File, p.Line, text)
	}
	if d.Explanation != nil {
		b.WriteByte('\n')
		writeExplanation(&b, d.Explanation)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// stagesAsText yields the names of the stages.
func stagesAsText(yield func(string) bool) {
	for _, stage := range policy.Stages() {
		if !yield(string(stage)) {
			return
		}
	}
}

func stageNames() string { return strings.Join(slices.Collect(stagesAsText), ", ") }

// oneStage wants the name of a stage and nothing else.
func oneStage(_ *cobra.Command, args []string) error {
	switch {
	case len(args) != 1:
		return fmt.Errorf("want one stage: %s", stageNames())
	case !slices.Contains(slices.Collect(stagesAsText), args[0]):
		return fmt.Errorf("%q is no stage; the stages are %s", args[0], stageNames())
	}
	return nil
}
