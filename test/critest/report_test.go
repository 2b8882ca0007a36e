package main

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// As Ginkgo writes it, shortened.
const sample = `<?xml version="1.0" encoding="UTF-8"?>
<testsuites tests="7"><testsuite name="CRI validation" timestamp="2026-01-02T03:04:05">
<testcase name="[BeforeSuite]" classname="CRI validation" status="passed" time="0"></testcase>
<testcase name="[It] [k8s.io] Pod runs [Conformance] [Serial]" status="passed" time="3.5"></testcase>
<testcase name="[It] [k8s.io] Pod has a bug" status="failed" time="1"><failure message="no such | file&#xA;at all" type="failed">where</failure></testcase>
<testcase name="[It] [k8s.io] Pod hangs" status="timedout" time="60"></testcase>
<testcase name="[It] [k8s.io] Host PID" status="skipped" time="0"><skipped message="skipped"></skipped></testcase>
<testcase name="[It] [k8s.io] AppArmor" status="skipped" time="0.1"><skipped message="skipped - AppArmor is off"></skipped></testcase>
<testcase name="[It] [k8s.io] benchmark" status="skipped" time="0"><skipped message="skipped"></skipped></testcase>
</testsuite></testsuites>`

var sampleExpected = expectations{Skip: []expectation{{"Host PID", "the host's"}}, Failing: []expectation{{"Pod has a bug", "not done"}}}

func TestReportTellsSpecsApart(t *testing.T) {
	got, started, err := parseReport([]byte(sample), sampleExpected)
	if err != nil {
		t.Fatal(err)
	}
	want := []result{
		{"AppArmor", skippedByIt, "AppArmor is off", 100 * time.Millisecond},
		{"Host PID", skippedByUs, "the host's", 0},
		{"Pod hangs", failed, "timedout", time.Minute},
		{"Pod has a bug", failed, "no such | file\nat all", time.Second},
		{"Pod runs [Conformance]", passed, "", 3500 * time.Millisecond},
	}
	if !slices.Equal(got, want) || started != "2026-01-02 03:04:05" {
		t.Errorf("got\n%+v of %s\nwant\n%+v", got, started, want)
	}
	for _, bad := range []string{"", "<testsuites></testsuites>", "not XML"} {
		if _, _, err := parseReport([]byte(bad), sampleExpected); err == nil {
			t.Errorf("%q is a report", bad)
		}
	}
}

func TestOnlyWhatIsListedMayDifferFromPassing(t *testing.T) {
	good := []result{{spec: "Pod has a bug", outcome: failed}, {spec: "Host PID", outcome: skippedByUs}, {spec: "x"}}
	if list := surprises(good, sampleExpected, true); len(list) > 0 {
		t.Errorf("surprised by what was foreseen: %q", list)
	}
	for name, c := range map[string]struct {
		results  []result
		complete bool
		want     string
	}{
		"an unknown failure":          {[]result{{spec: "x", outcome: failed, why: "oh"}}, false, "failed: x"},
		"a known failure that passed": {[]result{{spec: "Pod has a bug"}}, false, "passed, though"},
		"an entry without a spec":     {good[:1], true, "no such spec: Host PID"},
	} {
		if list := surprises(c.results, sampleExpected, c.complete); len(list) != 1 || !strings.Contains(list[0], c.want) {
			t.Errorf("%s: got %q, want %q", name, list, c.want)
		}
	}
}

func TestPageHasEverySpecOnceAndEscapesTables(t *testing.T) {
	results, started, err := parseReport([]byte(sample), sampleExpected)
	if err != nil {
		t.Fatal(err)
	}
	other := slices.Clone(results)
	other[2] = result{spec: "Pod hangs", took: 1500 * time.Millisecond} // passes in the second run
	text := page(about{Critest: "v1.36.0"}, []run{{"one", started, results}, {"two", "later", other}}, expectations{})
	for _, line := range []string{
		"| one | **1** | 2 | 1 | 1 | 5 | 2026-01-02 03:04:05 | 1m5s |", "| two | **2** | 1 | 1 | 1 | 5 | later | 6s |",
		"| Pod runs [Conformance] | 3.5 | 3.5 |", "| Pod hangs | – | 1.5 |", "| Pod hangs | (one) timedout |",
		"| Pod has a bug | no such \\| file at all |", "| Host PID | the host's |", "| AppArmor | AppArmor is off |",
	} {
		if strings.Count(text, line+"\n") != 1 {
			t.Errorf("not once there: %s\n%s", line, text)
		}
	}
}

func TestExpectationsAreWellFormed(t *testing.T) {
	if _, err := parseExpectations(expectedText); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{
		"[[skip]]\nspec = 'a'\n", "[[skip]]\nreason = 'a'\n", "[[skipped]]\nspec = 'a'\nreason = 'b'\n", "spec",
		"[[skip]]\nspec = 'a'\nreason = 'b'\n[[failing]]\nspec = 'a'\nreason = 'b'\n",
	} {
		if e, err := parseExpectations(bad); err == nil {
			t.Errorf("%q is %+v", bad, e)
		}
	}
}

func TestProgressPairsSpecsWithOutcomes(t *testing.T) {
	var out strings.Builder
	p := &progress{out: &out}
	for _, part := range []string{"[k8s.io] Pod", " runs\n/a/file.go:1\nSTEP: x\n• [1.0 sec", "onds]\n---\n[k8s.io] AppArmor\nS [SKIPPED] [0.1 seconds]\n• unrelated\n"} {
		if _, err := p.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	if want := "• [1.0 seconds] Pod runs\nS [SKIPPED] [0.1 seconds] AppArmor\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}
