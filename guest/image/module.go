package image

import (
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"os/exec"
	"path"
	"slices"
	"strings"

	"github.com/kata-cc/kata-cc/guest/image/debian"
)

// module is a kernel module, uncompressed.
type module struct {
	debian.File
	name    string   // as lsmod prints it: "dm_verity"
	depends []string // names of modules that it cannot be loaded without
	softPre []string // names of modules that it wants loaded before it
	aliases []string
}

// moduleSet is what a kernel package offers: modules as files, and the names of
// what is built in.
type moduleSet struct {
	release string // "6.1.0-44-cloud-amd64"
	files   map[string]debian.File
	paths   map[string]string // name → path
	builtin map[string]bool
}

// moduleName is the kernel's name of a module file: "dm-mod.ko.xz" → "dm_mod".
func moduleName(file string) string {
	base, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(base, "-", "_")
}

func isModule(name string) bool {
	base := path.Base(name)
	return strings.HasSuffix(base, ".ko") || strings.HasSuffix(base, ".ko.xz")
}

func newModuleSet(release string, files map[string]debian.File) moduleSet {
	s := moduleSet{release: release, files: files, paths: map[string]string{}, builtin: map[string]bool{}}
	for name, f := range files {
		switch {
		case isModule(name):
			s.paths[moduleName(name)] = name
		case path.Base(name) == "modules.builtin":
			for line := range strings.Lines(string(f.Data)) {
				s.builtin[moduleName(strings.TrimSpace(line))] = true
			}
		}
	}
	return s
}

// order returns the modules that wanted and their dependencies make up, each
// after those it depends on. What is built in is left out. A name that is
// neither a module nor built in is an error.
func (s moduleSet) order(ctx context.Context, wanted []string) ([]module, error) {
	var list []module
	const doing, done = 1, 2
	state := map[string]int{}
	var visit func(name, from string) error
	visit = func(name, from string) error {
		name = moduleName(name)
		if s.builtin[name] || state[name] == done {
			return nil
		}
		if state[name] == doing {
			return fmt.Errorf("kernel %s: module %s depends on itself through %s", s.release, name, from)
		}
		if _, there := s.paths[name]; !there {
			return fmt.Errorf("kernel %s: %s (needed by %s) is neither a module of its package nor built in", s.release, name, from)
		}
		state[name] = doing
		m, err := s.load(ctx, name)
		if err != nil {
			return err
		}
		for _, d := range m.softPre {
			if _, there := s.paths[moduleName(d)]; there && state[moduleName(d)] != doing {
				if err := visit(d, name); err != nil {
					return err
				}
			}
		}
		for _, d := range m.depends {
			if err := visit(d, name); err != nil {
				return err
			}
		}
		state[name] = done
		list = append(list, m)
		return nil
	}
	for _, name := range wanted {
		if err := visit(name, "the guest"); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// load reads one module of the set.
func (s moduleSet) load(ctx context.Context, name string) (module, error) {
	m := module{File: s.files[s.paths[name]], name: name}
	if plain, compressed := strings.CutSuffix(m.Path, ".xz"); compressed {
		data, err := unxz(ctx, m.Data)
		if err != nil {
			return module{}, fmt.Errorf("kernel module %s: %w", m.Path, err)
		}
		m.Path, m.Data = plain, data
	}
	info, err := modinfo(m.Data)
	if err != nil {
		return module{}, fmt.Errorf("kernel module %s: %w", m.Path, err)
	}
	for _, line := range info {
		key, value, _ := strings.Cut(line, "=")
		switch key {
		case "depends":
			m.depends = strings.FieldsFunc(value, func(r rune) bool { return r == ',' })
		case "softdep":
			m.softPre = append(m.softPre, softPre(value)...)
		case "alias":
			m.aliases = append(m.aliases, value)
		}
	}
	return m, nil
}

// softPre returns the names after "pre:" in a softdep, which reads
// "pre: a b post: c" (modprobe.d(5)).
func softPre(value string) []string {
	var names []string
	pre := false
	for _, word := range strings.Fields(value) {
		switch {
		case strings.HasSuffix(word, ":"):
			pre = word == "pre:"
		case pre:
			names = append(names, word)
		}
	}
	return names
}

// modinfo returns the "key=value" strings of a module's .modinfo section.
func modinfo(data []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("no .modinfo section")
	}
	text, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf("read .modinfo: %w", err)
	}
	return slices.DeleteFunc(strings.Split(string(text), "\x00"), func(s string) bool { return s == "" }), nil
}

// unxz expands xz data with Debian's own tool: newer kernel packages compress
// their modules, and the guest has nobody who would expand them.
func unxz(ctx context.Context, data []byte) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "xz", "--decompress", "--stdout")
	cmd.Stdin = bytes.NewReader(data)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("xz --decompress: %w: %s", err, strings.TrimSpace(said.String()))
	}
	return out.Bytes(), nil
}

// addModules puts modules into the tree: those of boot with the list of paths
// that the agent loads before all else, those of both with what modprobe needs
// to load them on demand.
func (t tree) addModules(release string, boot, all []module) error {
	var list, deps, aliases strings.Builder
	root := path.Join("/lib/modules", release)
	paths := map[string]string{}
	above := map[string][]string{}
	for _, m := range all {
		inside := m.Path[strings.Index(m.Path, "/kernel/")+1:]
		paths[m.name] = inside
		if err := t.file(path.Join(root, inside), 0o644, m.Data, origin(m.Package)); err != nil {
			return err
		}
		above[m.name] = transitive(m, above)
		deps.WriteString(inside + ":")
		for _, d := range slices.Backward(above[m.name]) { // modprobe loads from the right
			deps.WriteString(" " + paths[d])
		}
		deps.WriteByte('\n')
		for _, a := range m.aliases {
			aliases.WriteString("alias " + a + " " + m.name + "\n")
		}
	}
	for _, m := range boot {
		list.WriteString(path.Join(root, paths[m.name]) + "\n")
	}
	for name, text := range map[string]string{
		"/etc/kata-agent/modules":          list.String(),
		path.Join(root, "modules.dep"):     deps.String(),
		path.Join(root, "modules.alias"):   aliases.String(),
		path.Join(root, "modules.symbols"): "",
	} {
		if err := t.file(name, 0o644, []byte(text), ""); err != nil {
			return err
		}
	}
	return nil
}

// transitive returns all modules that m needs, in load order; above has the
// answer for those that m depends on. What is built in is in no answer.
func transitive(m module, above map[string][]string) []string {
	var all []string
	for _, d := range m.depends {
		name := moduleName(d)
		lower, there := above[name]
		if !there {
			continue
		}
		for _, n := range append(slices.Clone(lower), name) {
			if !slices.Contains(all, n) {
				all = append(all, n)
			}
		}
	}
	return all
}
