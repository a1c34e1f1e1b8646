package main

import (
	"strconv"
	"strings"
	"unicode"
)

// shown.go is how names that others have chosen come to a terminal or a file.

// shownName quotes a name that a terminal would not show as it is, or that would
// pass for more than one column.
func shownName(name string) string {
	if quoted := strconv.Quote(name); quoted[1:len(quoted)-1] != name || strings.TrimSpace(name) != name || strings.Contains(name, "  ") {
		return quoted
	}
	return name
}

func shownGroups(groups []string) string {
	shown := make([]string, len(groups))
	for i, group := range groups {
		shown[i] = shownName(group)
	}
	return strings.Join(shown, ",")
}

// visible writes each character that is not printable as Go does: \n, \x1b, \u202e.
func visible(text string) string {
	var b strings.Builder
	for _, r := range text {
		if unicode.IsPrint(r) {
			b.WriteRune(r)
			continue
		}
		b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
	}
	return b.String()
}

// printable keeps a record that somebody else wrote from steering the terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
}
