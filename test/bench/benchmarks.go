package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

var benchmark = regexp.MustCompile(`(?m)^func Benchmark`)

// goBenchmarks runs the module's benchmarks ten times and makes a table of the
// medians.
func goBenchmarks(ctx context.Context, _ int) (string, error) {
	packages, err := benchmarked(ctx)
	if err != nil {
		return "", err
	}
	args := append([]string{"test", "-run", "^$", "-bench", ".", "-benchtime", "0.3s", "-count", "10", "-timeout", "60m", "-p", "1"}, packages...)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	var b strings.Builder
	b.WriteString("## Parts by themselves\n\nGo benchmarks, medians of 10.\n\n| package | benchmark | figures |\n|---|---|---|\n")
	for _, r := range parseBenchmarks(string(out)) {
		var figures []string
		for _, unit := range r.units {
			figures = append(figures, figure(r.values[unit], unit))
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", r.pkg, r.name, strings.Join(figures, ", "))
	}
	return b.String(), nil
}

// benchmarked lists the packages that have a benchmark.
func benchmarked(ctx context.Context) ([]string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-json=ImportPath,Dir,TestGoFiles,XTestGoFiles", "./...").Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	var found []string
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			ImportPath, Dir           string
			TestGoFiles, XTestGoFiles []string
		}
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return found, nil
		} else if err != nil {
			return nil, err
		}
		for _, file := range append(p.TestGoFiles, p.XTestGoFiles...) {
			text, err := os.ReadFile(filepath.Join(p.Dir, file))
			if err != nil {
				return nil, err
			}
			if benchmark.Match(text) && !slices.Contains(found, p.ImportPath) {
				found = append(found, p.ImportPath)
			}
		}
	}
}

// result is one benchmark's runs.
type result struct {
	pkg, name string
	units     []string
	values    map[string][]float64
}

// parseBenchmarks reads the lines of `go test -bench`
// (golang.org/design/14313-benchmark-format).
func parseBenchmarks(out string) []*result {
	var results []*result
	pkg := ""
	for line := range strings.Lines(out) {
		if rest, ok := strings.CutPrefix(line, "pkg: github.com/kata-cc/kata-cc/"); ok {
			pkg = strings.TrimSpace(rest)
			continue
		}
		words := strings.Fields(line)
		if len(words) < 4 || !strings.HasPrefix(words[0], "Benchmark") {
			continue
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(words[0], "Benchmark"), "-")
		i := slices.IndexFunc(results, func(r *result) bool { return r.pkg == pkg && r.name == name })
		if i < 0 {
			i = len(results)
			results = append(results, &result{pkg: pkg, name: name, values: map[string][]float64{}})
		}
		for at := 2; at+1 < len(words); at += 2 {
			value, err := strconv.ParseFloat(words[at], 64)
			unit := words[at+1]
			if err != nil || unit == "B/op" || unit == "allocs/op" {
				continue
			}
			if !slices.Contains(results[i].units, unit) {
				results[i].units = append(results[i].units, unit)
			}
			results[i].values[unit] = append(results[i].values[unit], value)
		}
	}
	return results
}

// figure is the median in a unit that people read.
func figure(values []float64, unit string) string {
	slices.Sort(values)
	m := values[len(values)/2]
	if unit != "ns/op" {
		return fmt.Sprintf("%.4g %s", m, unit)
	}
	for _, u := range []struct {
		name string
		size float64
	}{{"s", 1e9}, {"ms", 1e6}, {"µs", 1e3}} {
		if m >= u.size {
			return fmt.Sprintf("%.3g %s", m/u.size, u.name)
		}
	}
	return fmt.Sprintf("%.3g ns", m)
}
