package debian

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

// Field is one field of a paragraph. Value holds the lines after the colon as
// they stand, joined by newlines, without the space at the start of the first.
type Field struct {
	Name, Value string
}

// Paragraph is one stanza of a Debian control file (deb-control(5), deb822(5)),
// in the order of the file. Field names compare without case.
type Paragraph []Field

// Get returns the value of a field, empty if the paragraph lacks it.
func (p Paragraph) Get(name string) string {
	for _, f := range p {
		if strings.EqualFold(f.Name, name) {
			return f.Value
		}
	}
	return ""
}

// ParseControl reads the paragraphs of a control file. Comment lines vanish, as
// in apt's .sources files. A line that is neither a field, a continuation, a
// comment nor empty is an error that names its number.
func ParseControl(r io.Reader) ([]Paragraph, error) {
	var all []Paragraph
	var p Paragraph
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 4<<20) // a field may be one long line
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimRight(lines.Text(), " \t\r")
		switch {
		case strings.HasPrefix(line, "#"):
		case line == "":
			// A line of blanks ends a paragraph too: apt and dpkg read it so.
			if len(p) > 0 {
				all, p = append(all, p), nil
			}
		case line[0] == ' ' || line[0] == '\t':
			if len(p) == 0 {
				return nil, fmt.Errorf("line %d: continuation of no field", n)
			}
			p[len(p)-1].Value += "\n" + line
		default:
			name, value, found := strings.Cut(line, ":")
			if !found || name == "" || strings.ContainsAny(name, " \t") {
				return nil, fmt.Errorf("line %d: %q is no field", n, line)
			}
			p = append(p, Field{Name: name, Value: strings.TrimLeft(value, " \t")})
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(p) > 0 {
		all = append(all, p)
	}
	return all, nil
}

// String writes the paragraph as it would stand in a file, without the empty
// line that ends it.
func (p Paragraph) String() string {
	var b strings.Builder
	for _, f := range p {
		b.WriteString(f.Name + ":")
		if f.Value != "" && f.Value[0] != '\n' {
			b.WriteByte(' ')
		}
		b.WriteString(f.Value + "\n")
	}
	return b.String()
}
