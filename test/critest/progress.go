package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
)

// progress picks from Ginkgo's verbose output the line that names a spec and
// the one that says how it went, and prints them as one.
type progress struct {
	out  io.Writer
	rest []byte
	spec string
}

func (p *progress) Write(text []byte) (int, error) {
	p.rest = append(p.rest, text...)
	for {
		line, rest, found := bytes.Cut(p.rest, []byte("\n"))
		if !found {
			return len(text), nil
		}
		p.line(string(line))
		p.rest = rest
	}
}

func (p *progress) line(line string) {
	switch {
	case strings.HasPrefix(line, "[k8s.io] "):
		p.spec = line[len("[k8s.io] "):]
	case strings.HasPrefix(line, "• "), strings.HasPrefix(line, "S [SKIPPED]"):
		if p.spec != "" {
			fmt.Fprintf(p.out, "%s %s\n", line, p.spec)
			p.spec = ""
		}
	}
}
