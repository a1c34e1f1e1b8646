package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"unicode/utf8"
)

// parseJSON takes one JSON value, to the letter of RFC 8259.
func parseJSON(file string, document []byte) (*node, Problems) {
	reader := jsonReader{document: document, lines: newLines(file, document), decoder: json.NewDecoder(bytes.NewReader(document))}
	reader.decoder.UseNumber()
	if len(bytes.TrimSpace(document)) == 0 {
		return nil, nil
	}
	if !utf8.Valid(document) {
		reader.problems.add(origin{file: file}, "", "not JSON: not valid UTF-8")
		return nil, reader.problems
	}
	// Judged whole beforehand, so that walking the tokens meets no error.
	if err := json.Unmarshal(document, new(json.RawMessage)); err != nil {
		at := origin{file: file}
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			at = reader.lines.at(max(int(syntax.Offset)-1, 0))
		}
		reader.problems.add(at, "", "not JSON: %v", err)
		return nil, reader.problems
	}
	return reader.read("", 0), reader.problems
}

type jsonReader struct {
	document []byte
	lines    lines
	decoder  *json.Decoder
	problems Problems
}

// next gives a token and where it begins: after the white space and the separator that follow the token before it.
func (r *jsonReader) next() (json.Token, origin) {
	start := int(r.decoder.InputOffset())
	for start < len(r.document) && strings.IndexByte(" \t\r\n,:", r.document[start]) >= 0 {
		start++
	}
	token, _ := r.decoder.Token()
	return token, r.lines.at(start)
}

func (r *jsonReader) read(path string, depth int) *node {
	token, at := r.next()
	read := &node{at: at}
	switch {
	case depth == maxDepth+1:
		r.problems.add(at, "", tooDeep)
		fallthrough
	case depth > maxDepth:
		path = "" // nobody will read it, and it would grow with every level
	}
	switch token := token.(type) {
	case json.Delim:
		if token == '[' {
			read.kind = list
			for i := 0; r.decoder.More(); i++ {
				read.items = append(read.items, r.read(index(path, i), depth+1))
			}
		} else {
			read.kind = mapping
			r.readObject(read, path, depth)
		}
		r.next() // the closing bracket
	case bool:
		read.kind, read.text = boolean, "false"
		if token {
			read.text = "true"
		}
	case json.Number:
		read.kind, read.text = integer, token.String()
		if strings.ContainsAny(token.String(), ".eE") {
			read.kind = number
		}
	case string:
		read.kind, read.text = text, token
	}
	return read
}

func (r *jsonReader) readObject(read *node, path string, depth int) {
	seen := map[string]int{}
	for r.decoder.More() {
		token, at := r.next()
		key, _ := token.(string)
		below := join(path, key)
		value := r.read(below, depth+1)
		if line, twice := seen[key]; twice {
			r.problems.add(at, below, "duplicate key; it is on line %d already", line)
			continue
		}
		seen[key] = at.line
		read.entries = append(read.entries, entry{key, at, value})
	}
}
