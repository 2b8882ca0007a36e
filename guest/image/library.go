package image

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/kata-cc/kata-cc/guest/image/debian"
)

// libraryDir is where the guest's dynamic linker looks first.
const libraryDir = "/lib/x86_64-linux-gnu"

// libraryDirs are the folders in which packages keep shared libraries.
var libraryDirs = []string{libraryDir, "/usr" + libraryDir, "/lib64", "/usr/lib64"}

// isLibrary says whether a path of a package may be a shared library.
func isLibrary(name string) bool {
	return slices.Contains(libraryDirs, path.Dir(name)) && strings.Contains(path.Base(name), ".so")
}

// closure finds the shared libraries that programs need, and those that these
// need, among the files of packages. It returns them by soname, and the path
// of the dynamic linker that the programs name. A library that no package has
// is an error that names it and who needs it.
func closure(files map[string]debian.File, programs ...debian.File) (libraries map[string]debian.File, linker string, err error) {
	libraries = map[string]debian.File{}
	for next := programs; len(next) > 0; {
		program := next[0]
		next = next[1:]
		needed, interpreter, err := linkage(program.Data)
		if err != nil {
			return nil, "", fmt.Errorf("%s of %s: %w", program.Path, origin(program.Package), err)
		}
		if interpreter != "" {
			if linker != "" && linker != interpreter {
				return nil, "", fmt.Errorf("%s names the dynamic linker %s, others %s", program.Path, interpreter, linker)
			}
			linker = interpreter
			needed = append(needed, path.Base(interpreter))
		}
		for _, soname := range needed {
			if _, have := libraries[soname]; have {
				continue
			}
			library, err := findLibrary(files, soname)
			if err != nil {
				return nil, "", fmt.Errorf("%s needs library %s: %w", program.Path, soname, err)
			}
			libraries[soname] = library
			next = append(next, library)
		}
	}
	return libraries, linker, nil
}

func findLibrary(files map[string]debian.File, soname string) (debian.File, error) {
	for _, dir := range libraryDirs {
		if _, there := files[path.Join(dir, soname)]; there {
			return debian.Resolve(files, path.Join(dir, soname))
		}
	}
	return debian.File{}, fmt.Errorf("not in any package that was fetched: %w", fs.ErrNotExist)
}

// linkage reads which libraries an ELF file needs (DT_NEEDED) and which dynamic
// linker it names (PT_INTERP, empty for libraries and static programs).
func linkage(data []byte) (needed []string, interpreter string, err error) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, "", err
	}
	if f.Machine != elf.EM_X86_64 {
		return nil, "", fmt.Errorf("made for %s, the guest is x86-64", f.Machine)
	}
	if needed, err = f.ImportedLibraries(); err != nil {
		return nil, "", err
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		text := make([]byte, min(p.Filesz, 4096)) // PATH_MAX; the file may claim more
		if _, err := p.ReadAt(text, 0); err != nil {
			return nil, "", fmt.Errorf("read PT_INTERP: %w", err)
		}
		interpreter = string(bytes.TrimRight(text, "\x00"))
	}
	return needed, interpreter, nil
}

// addPrograms puts programs, by their path in the guest, and the libraries they
// need into the tree.
func (t tree) addPrograms(files map[string]debian.File, programs map[string]debian.File) error {
	names := slices.Sorted(maps.Keys(programs))
	var all []debian.File
	for _, name := range names {
		if err := t.packaged(name, programs[name]); err != nil {
			return err
		}
		all = append(all, programs[name])
	}
	libraries, linker, err := closure(files, all...)
	if err != nil {
		return err
	}
	for _, soname := range slices.Sorted(maps.Keys(libraries)) {
		if err := t.packaged(path.Join(libraryDir, soname), libraries[soname]); err != nil {
			return err
		}
	}
	if linker == "" || path.Dir(linker) == libraryDir {
		return nil
	}
	return t.link(linker, path.Join(libraryDir, path.Base(linker)))
}
