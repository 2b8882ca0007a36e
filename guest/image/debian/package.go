package debian

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// Package is a binary package as the archive's index describes it.
type Package struct {
	Name, Version string
	Filename      string // path in the archive, relative to its root
	SHA256        string // of the .deb, lower-case hex
	Size          int64  // of the .deb, bytes
	Depends       []string
}

// parsePackages reads the answer of `apt-cache show`.
func parsePackages(r io.Reader) ([]Package, error) {
	paragraphs, err := ParseControl(r)
	if err != nil {
		return nil, err
	}
	var packages []Package
	for _, p := range paragraphs {
		pkg := Package{
			Name: p.Get("Package"), Version: p.Get("Version"),
			Filename: p.Get("Filename"), SHA256: strings.ToLower(p.Get("SHA256")),
			Depends: dependencies(p.Get("Pre-Depends") + "," + p.Get("Depends")),
		}
		if pkg.Size, err = strconv.ParseInt(p.Get("Size"), 10, 64); err != nil {
			return nil, fmt.Errorf("package %q: size %q is no number", pkg.Name, p.Get("Size"))
		}
		if pkg.Name == "" || pkg.Version == "" || !isName(path.Base(pkg.Filename)) || len(pkg.SHA256) != 64 {
			return nil, fmt.Errorf("package %q: index lacks name, version, file name or SHA256", pkg.Name)
		}
		packages = append(packages, pkg)
	}
	return packages, nil
}

// isName says whether s can name a file in a directory.
func isName(s string) bool {
	return s != "" && s != "." && s != ".." && !strings.ContainsAny(s, "/\x00")
}

// dependencies returns the names in a Depends field: of alternatives the first,
// without version, architecture or profile restrictions.
func dependencies(field string) []string {
	var names []string
	for clause := range strings.SplitSeq(field, ",") {
		first, _, _ := strings.Cut(clause, "|")
		name, _, _ := strings.Cut(strings.TrimSpace(first), " ")
		if i := strings.IndexAny(name, ":(["); i >= 0 {
			name = name[:i]
		}
		if name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// Show returns the candidate version of each name, in the order of names. The
// lists are fetched first if there are none. An unknown name is ErrNotFound.
func (a *Apt) Show(ctx context.Context, names ...string) ([]Package, error) {
	var listErr error
	if !a.haveLists() {
		listErr = a.update(ctx)
	}
	var found []Package
	for _, name := range names {
		pkg, err := a.show(ctx, name)
		if err != nil {
			// A third party's source that lacks a suite fails the update, and
			// yet Debian's list is there: listErr counts only now.
			return nil, errors.Join(err, listErr)
		}
		found = append(found, pkg)
	}
	return found, nil
}

func (a *Apt) show(ctx context.Context, name string) (Package, error) {
	out, err := a.run(ctx, queryTimeout, a.dir, "apt-cache", "show", "--no-all-versions", name)
	if err != nil {
		return Package{}, fmt.Errorf("package %s: %w: %w", name, errdefs.ErrNotFound, err)
	}
	packages, err := parsePackages(bytes.NewReader(out))
	if err != nil {
		return Package{}, fmt.Errorf("package %s: %w", name, err)
	}
	for _, p := range packages {
		if p.Name == name {
			return p, nil
		}
	}
	return Package{}, fmt.Errorf("package %s: apt knows no candidate: %w", name, errdefs.ErrNotFound)
}

// WithLibraries returns the packages of names and all library packages that
// they depend on, sorted by name. Only dependencies called lib… are followed:
// that is where shared libraries are, and the rest (configuration systems,
// maintainer scripts' tools) is needed by an installation alone.
func (a *Apt) WithLibraries(ctx context.Context, names ...string) ([]Package, error) {
	seen := map[string]Package{}
	for next := names; len(next) > 0; {
		packages, err := a.Show(ctx, next...)
		if err != nil {
			return nil, err
		}
		next = nil
		for _, p := range packages {
			seen[p.Name] = p
		}
		for _, p := range packages {
			for _, d := range p.Depends {
				if _, known := seen[d]; !known && strings.HasPrefix(d, "lib") && !slices.Contains(next, d) {
					next = append(next, d)
				}
			}
		}
	}
	all := make([]Package, 0, len(seen))
	for _, p := range seen {
		all = append(all, p)
	}
	slices.SortFunc(all, func(x, y Package) int { return strings.Compare(x.Name, y.Name) })
	return all, nil
}

// Fetch returns the path of the package's .deb, downloading it unless a file
// with its checksum is there. A failed download leaves no file under that path.
func (a *Apt) Fetch(ctx context.Context, p Package) (string, error) {
	file := a.path("archives", path.Base(p.Filename))
	if sum, err := sumFile(file); err == nil && sum == p.SHA256 {
		return file, nil
	}
	fmt.Fprintf(a.options.Progress, "fetching %s %s (%.1f MB)\n", p.Name, p.Version, float64(p.Size)/1e6)
	dir, err := os.MkdirTemp(a.dir, "fetch-")
	if err != nil {
		return "", fmt.Errorf("fetch package %s: %w", p.Name, err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if _, err = a.run(ctx, fetchTimeout, dir, "apt-get", "-q", "download", p.Name+"="+p.Version); err != nil {
		return "", fmt.Errorf("fetch package %s %s: %w", p.Name, p.Version, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", fmt.Errorf("fetch package %s: %w", p.Name, err)
	}
	if len(entries) != 1 {
		return "", fmt.Errorf("fetch package %s %s: apt-get download left %d files", p.Name, p.Version, len(entries))
	}
	got := dir + "/" + entries[0].Name()
	sum, err := sumFile(got)
	if err != nil {
		return "", fmt.Errorf("fetch package %s: %w", p.Name, err)
	}
	if sum != p.SHA256 {
		return "", fmt.Errorf("package %s %s has SHA256 %s, the index says %s: %w",
			p.Name, p.Version, sum, p.SHA256, errdefs.ErrDataLoss)
	}
	if err := os.Rename(got, file); err != nil {
		return "", fmt.Errorf("keep package %s: %w", p.Name, err)
	}
	return file, nil
}

func sumFile(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
