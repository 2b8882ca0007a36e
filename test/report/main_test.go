package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

func TestReportTellsSkipsAndFailures(t *testing.T) {
	const events = `{"Action":"run","Package":"github.com/kata-cc/kata-cc/a","Test":"TestA"}
{"Action":"pass","Package":"github.com/kata-cc/kata-cc/a","Test":"TestA"}
{"Action":"output","Package":"github.com/kata-cc/kata-cc/a","Test":"TestB","Output":"=== RUN   TestB\n"}
{"Action":"output","Package":"github.com/kata-cc/kata-cc/a","Test":"TestB","Output":"    a_test.go:7: needs root\n"}
{"Action":"output","Package":"github.com/kata-cc/kata-cc/a","Test":"TestB","Output":"--- SKIP: TestB (0.00s)\n"}
{"Action":"skip","Package":"github.com/kata-cc/kata-cc/a","Test":"TestB"}
{"Action":"output","Package":"github.com/kata-cc/kata-cc/a","Test":"TestC","Output":"    a_test.go:9: got 1\n"}
{"Action":"fail","Package":"github.com/kata-cc/kata-cc/a","Test":"TestC"}
{"Action":"fail","Package":"github.com/kata-cc/kata-cc/a"}
go: downloading something
{"Action":"output","Package":"github.com/kata-cc/kata-cc/b","Output":"b.go:1:1: syntax error\n"}
{"Action":"fail","Package":"github.com/kata-cc/kata-cc/b"}
{"Action":"output","Package":"github.com/kata-cc/kata-cc/c","Output":"note: 7 cells ran\n"}
{"Action":"pass","Package":"github.com/kata-cc/kata-cc/c","Elapsed":1.5}
`
	var r results
	var out bytes.Buffer
	if err := r.read(strings.NewReader(events), &out); err != nil {
		t.Fatal(err)
	}
	r.print(&out)
	for _, want := range []string{
		"a_test.go:9: got 1", "go: downloading something", "b.go:1:1: syntax error",
		"  needs root:\n    a TestB\n", "  a TestC\n  b\n", "1.5s\n      7 cells ran\n", "\n1 passed, 2 failed, 1 skipped\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, &out)
		}
	}
}

func TestSplitRuns(t *testing.T) {
	var got []string
	for run := range splitRuns([]string{"a", "b", "--", "c"}) {
		got = append(got, strings.Join(run, "+"))
	}
	if !slices.Equal(got, []string{"a+b", "c"}) {
		t.Fatal(got)
	}
}
