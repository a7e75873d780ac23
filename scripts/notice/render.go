package main

import (
	"fmt"
	"strings"
)

const heading = `Third parties in iam-token-rotator

The binary holds the software listed here, each under its own licence. The texts
follow the list; one that several share stands there once.

`

// rule stands before every text.
var rule = strings.Repeat("=", 80) + "\n"

// render writes the list and the texts: the same bytes for the same modules.
func render(parties []party) []byte {
	var out strings.Builder
	out.WriteString(heading)
	sharers := map[string][]string{}
	var order []string
	for _, p := range parties {
		names := make([]string, 0, len(p.texts))
		for _, t := range p.texts {
			names = append(names, t.name)
			if sharers[t.content] == nil {
				order = append(order, t.content)
			}
			sharers[t.content] = append(sharers[t.content], p.module+": "+t.name)
		}
		fmt.Fprintf(&out, "%s %s (%s)\n", p.module, p.version, strings.Join(names, ", "))
	}
	for _, content := range order {
		out.WriteString("\n" + rule)
		for _, sharer := range sharers[content] {
			out.WriteString(sharer + "\n")
		}
		out.WriteString(rule + "\n" + content)
	}
	return []byte(out.String())
}
