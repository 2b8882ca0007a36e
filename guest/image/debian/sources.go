package debian

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Source is one entry of apt's sources.list(5), whichever of its two formats it
// was written in.
type Source struct {
	Types, URIs, Suites, Components []string
	// Options are all other fields, under their deb822 names ("Signed-By").
	Options Paragraph
}

// listOptions gives the deb822 name of each option of the one-line format.
var listOptions = map[string]string{
	"arch": "Architectures", "lang": "Languages", "target": "Targets", "pdiffs": "PDiffs",
	"by-hash": "By-Hash", "allow-insecure": "Allow-Insecure", "allow-weak": "Allow-Weak",
	"allow-downgrade-to-insecure": "Allow-Downgrade-To-Insecure", "trusted": "Trusted",
	"signed-by": "Signed-By", "check-valid-until": "Check-Valid-Until",
	"valid-until-min": "Valid-Until-Min", "valid-until-max": "Valid-Until-Max",
	"check-date": "Check-Date", "date-max-future": "Date-Max-Future",
	"inrelease-path": "InRelease-Path", "snapshot": "Snapshot",
}

// ParseSources reads a file in the deb822 format (.sources). Entries with
// "Enabled: no" are left out.
func ParseSources(r io.Reader) ([]Source, error) {
	paragraphs, err := ParseControl(r)
	if err != nil {
		return nil, err
	}
	var sources []Source
	for i, p := range paragraphs {
		s := Source{
			Types: strings.Fields(p.Get("Types")), URIs: strings.Fields(p.Get("URIs")),
			Suites: strings.Fields(p.Get("Suites")), Components: strings.Fields(p.Get("Components")),
		}
		enabled := true
		for _, f := range p {
			switch strings.ToLower(f.Name) {
			case "types", "uris", "suites", "components":
			case "enabled":
				enabled = !slices.Contains([]string{"no", "false", "without", "off", "disable"}, strings.ToLower(f.Value))
			default:
				s.Options = append(s.Options, f)
			}
		}
		if !enabled {
			continue
		}
		if len(s.Types) == 0 || len(s.URIs) == 0 || len(s.Suites) == 0 {
			return nil, fmt.Errorf("entry %d lacks Types, URIs or Suites", i+1)
		}
		sources = append(sources, s)
	}
	return sources, nil
}

// ParseList reads a file in the one-line format (sources.list, .list).
func ParseList(r io.Reader) ([]Source, error) {
	var sources []Source
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		line, _, _ := strings.Cut(lines.Text(), "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		s := Source{Types: words[:1]}
		words = words[1:]
		if len(words) > 0 && strings.HasPrefix(words[0], "[") {
			text := strings.Join(words, " ")
			options, rest, closed := strings.Cut(text[1:], "]")
			if !closed {
				return nil, fmt.Errorf("line %d: option list is not closed", n)
			}
			var err error
			if s.Options, err = parseListOptions(options); err != nil {
				return nil, fmt.Errorf("line %d: %w", n, err)
			}
			words = strings.Fields(rest)
		}
		if len(words) < 2 {
			return nil, fmt.Errorf("line %d: %q lacks URI or suite", n, line)
		}
		s.URIs, s.Suites, s.Components = words[:1], words[1:2], words[2:]
		sources = append(sources, s)
	}
	return sources, lines.Err()
}

func parseListOptions(text string) (Paragraph, error) {
	var p Paragraph
	for _, option := range strings.Fields(text) {
		key, value, found := strings.Cut(option, "=")
		suffix := ""
		switch {
		case strings.HasSuffix(key, "+"):
			key, suffix = strings.TrimSuffix(key, "+"), "-Add"
		case strings.HasSuffix(key, "-"):
			key, suffix = strings.TrimSuffix(key, "-"), "-Remove"
		}
		name, known := listOptions[strings.ToLower(key)]
		if !found || !known {
			return nil, fmt.Errorf("option %q is unknown", option)
		}
		p = append(p, Field{Name: name + suffix, Value: strings.ReplaceAll(value, ",", " ")})
	}
	return p, nil
}

// ReadSources reads all apt sources of a configuration directory such as
// /etc/apt: sources.list and what apt would read in sources.list.d.
func ReadSources(fsys fs.FS) ([]Source, error) {
	names, err := fs.Glob(fsys, "sources.list.d/*")
	if err != nil {
		return nil, err
	}
	var all []Source
	for _, name := range append([]string{"sources.list"}, names...) {
		parse := ParseSources
		switch path.Ext(name) {
		case ".sources":
		case ".list":
			parse = ParseList
		default: // apt ignores other names
			continue
		}
		f, err := fsys.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		sources, err := parse(f)
		_ = f.Close() // only read
		if err != nil {
			return nil, fmt.Errorf("apt source %s: %w", name, err)
		}
		all = append(all, sources...)
	}
	return all, nil
}

// Paragraph writes the source in the deb822 format.
func (s Source) Paragraph() Paragraph {
	p := Paragraph{
		{"Types", strings.Join(s.Types, " ")},
		{"URIs", strings.Join(s.URIs, " ")},
		{"Suites", strings.Join(s.Suites, " ")},
	}
	if len(s.Components) > 0 {
		p = append(p, Field{"Components", strings.Join(s.Components, " ")})
	}
	return append(p, s.Options...)
}

// addOns are the suites that add to another one, and have no counterpart of
// the same kind in every other.
var addOns = []string{"-security", "-updates", "-backports", "-backports-sloppy", "-proposed-updates", "-debug"}

// InSuite returns the sources that lead to another suite of the same archives:
// binary packages only, security and other add-on suites left out, component
// main only. Flat repositories have no suites, and archives without a main
// component are not Debian's; both are left out.
func InSuite(sources []Source, suite string) []Source {
	var out []Source
	for _, s := range sources {
		if !slices.Contains(s.Types, "deb") || !slices.Contains(s.Components, "main") {
			continue
		}
		if !slices.ContainsFunc(s.Suites, isBase) {
			continue
		}
		s.Types, s.Suites, s.Components = []string{"deb"}, []string{suite}, []string{"main"}
		if !slices.ContainsFunc(out, func(o Source) bool { return slices.Equal(o.URIs, s.URIs) }) {
			out = append(out, s)
		}
	}
	return out
}

func isBase(suite string) bool {
	// "bookworm/updates" is how the security suite was called before bullseye.
	return !strings.Contains(suite, "/") &&
		!slices.ContainsFunc(addOns, func(a string) bool { return strings.HasSuffix(suite, a) })
}

// writeSources writes sources as the file apt reads.
func writeSources(file string, sources []Source) error {
	var b strings.Builder
	for _, s := range sources {
		b.WriteString(s.Paragraph().String() + "\n")
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, []byte(b.String()), 0o644)
}
