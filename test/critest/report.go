package main

import (
	"cmp"
	"encoding/xml"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// outcome is what became of a spec.
type outcome int

const (
	passed outcome = iota
	failed
	skippedByUs // expected.toml says so
	skippedByIt // critest found out for itself that it has nothing to test
)

func (o outcome) String() string {
	return [...]string{"passed", "failed", "skipped by us", "skipped by critest"}[o]
}

// result is one spec of a run.
type result struct {
	spec    string
	outcome outcome
	why     string // of all but those that passed
	took    time.Duration
}

// junit is the report that Ginkgo writes: the schema that Jenkins reads, with
// Ginkgo's own attribute status.
type junit struct {
	Suites []struct {
		Started string `xml:"timestamp,attr"`
		Cases   []struct {
			Name    string  `xml:"name,attr"`
			Status  string  `xml:"status,attr"`
			Seconds float64 `xml:"time,attr"`
			Skipped *struct {
				Message string `xml:"message,attr"`
			} `xml:"skipped"`
			Failure *struct {
				Message string `xml:"message,attr"`
			} `xml:"failure"`
		} `xml:"testcase"`
	} `xml:"testsuite"`
}

// readReport reads the report of a run.
func readReport(file string, e expectations) (results []result, started string, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, "", err
	}
	if results, started, err = parseReport(text, e); err != nil {
		return nil, "", fmt.Errorf("%s: %w", file, err)
	}
	return results, started, nil
}

// parseReport leaves out what was neither run nor skipped for a reason: specs
// outside the focus, and benchmarks.
func parseReport(text []byte, e expectations) (results []result, started string, err error) {
	var report junit
	if err := xml.Unmarshal(text, &report); err != nil {
		return nil, "", fmt.Errorf("not a JUnit report: %w", err)
	}
	for _, suite := range report.Suites {
		started = cmp.Or(started, strings.ReplaceAll(suite.Started, "T", " "))
		for _, c := range suite.Cases {
			name, isSpec := strings.CutPrefix(c.Name, "[It] [k8s.io] ")
			if !isSpec {
				continue
			}
			r := result{
				spec: strings.TrimSuffix(name, " [Serial]"), // Ginkgo adds labels
				took: time.Duration(c.Seconds * float64(time.Second)),
			}
			switch c.Status {
			case "passed":
			case "skipped":
				reason, ours := find(e.Skip, r.spec)
				_, itsOwn, found := strings.Cut(c.Skipped.Message, "skipped - ")
				switch {
				case ours:
					r.outcome, r.why = skippedByUs, reason
				case found:
					r.outcome, r.why = skippedByIt, itsOwn
				default:
					continue
				}
			default: // failed, panicked, interrupted, timedout, …
				r.outcome, r.why = failed, c.Status
				if c.Failure != nil {
					r.why = c.Failure.Message
				}
			}
			results = append(results, r)
		}
	}
	if len(results) == 0 {
		return nil, "", fmt.Errorf("no spec was run")
	}
	slices.SortFunc(results, func(a, b result) int { return cmp.Compare(a.spec, b.spec) })
	return results, started, nil
}

// surprises are the results that expected.toml does not foresee: failures that
// it does not know, known ones that passed. complete says that every spec was
// to run, so that an entry without one is a mistake.
func surprises(results []result, e expectations, complete bool) []string {
	var list []string
	seen := map[string]bool{}
	for _, r := range results {
		seen[r.spec] = true
		_, known := find(e.Failing, r.spec)
		switch {
		case r.outcome == failed && !known:
			list = append(list, fmt.Sprintf("failed: %s\n    %s", r.spec, strings.ReplaceAll(r.why, "\n", "\n    ")))
		case r.outcome == passed && known:
			list = append(list, fmt.Sprintf("passed, though listed as failing: %s", r.spec))
		}
	}
	for _, x := range slices.Concat(e.Skip, e.Failing) {
		if complete && !seen[x.Spec] {
			list = append(list, fmt.Sprintf("critest has no such spec: %s", x.Spec))
		}
	}
	return list
}
