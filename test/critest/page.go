package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// about is what is told of the runs beside their results.
type about struct{ Critest, Containerd, VMM, Processor string }

// run is what came of all specs with one runtime handler.
type run struct {
	pods    string // how its pods are made
	started string
	results []result
}

const pageHead = `# Conformance

[critest](https://github.com/kubernetes-sigs/cri-tools), the conformance suite of the Container Runtime Interface, against containerd with this runtime as the default handler: every pod of it is a virtual machine. ` + "`sudo make critest`" + ` runs it and writes this page; it is not part of ` + "`make test`" + `. ` + "`make critest HANDLER=kata-cc-sandbox`" + ` does so with pods that are made by the [sandbox API](task-service.md), without a pause container; ` + "`FOCUS=regexp`" + ` runs some of the specs, and leaves the page alone. Every table is of one whole run for each kind of pods.

The node is that of the other end-to-end tests, with the tardev snapshotter and with ` + "`disable_guest_seccomp = false`" + `. The images are built for the run under the names that critest asks for, on Debian's busybox; small programs stand for nginx, httpd and the test of ` + "`no_new_privs`" + ` (` + "`test/critest`" + `). No outside registry is used. ` + "`test/critest/expected.toml`" + ` lists what is skipped, and what is known to fail; the target fails if anything else fails, and if something listed there passes.
`

// page is the document of the runs.
func page(a about, runs []run, e expectations) string {
	var b strings.Builder
	b.WriteString(pageHead)
	fmt.Fprintf(&b, "\ncritest %s, containerd %s, virtual machines by `%s`, %s.\n\n", a.Critest, a.Containerd, a.VMM, a.Processor)
	b.WriteString("| pods | passed | failed | skipped by us | skipped by critest | all | run on (UTC) | the specs took |\n|---|---|---|---|---|---|---|---|\n")
	for _, r := range runs {
		counts, total := map[outcome]int{}, time.Duration(0)
		for _, s := range r.results {
			counts[s.outcome]++
			total += s.took
		}
		fmt.Fprintf(&b, "| %s | **%d** | %d | %d | %d | %d | %s | %s |\n", r.pods,
			counts[passed], counts[failed], counts[skippedByUs], counts[skippedByIt], len(r.results), r.started, total.Round(time.Second))
	}
	section(&b, "Failed", "", runs, failed, e)
	section(&b, "Skipped by us", "What a container in a virtual machine, or a run without an outside registry, cannot do.", runs, skippedByUs, e)
	section(&b, "Skipped by critest", "It asks the runtime or the host first, and was told that there is nothing to test.", runs, skippedByIt, e)
	passes(&b, runs)
	return b.String()
}

// section lists the specs with an outcome, in whichever run.
func section(b *strings.Builder, title, text string, runs []run, o outcome, e expectations) {
	whys := map[string]string{}
	in := map[string][]string{}
	for _, r := range runs {
		for _, s := range r.results {
			if s.outcome != o {
				continue
			}
			why := s.why
			if reason, known := find(e.Failing, s.spec); known && o == failed {
				why = reason
			}
			whys[s.spec] = cmp.Or(whys[s.spec], why)
			in[s.spec] = append(in[s.spec], r.pods)
		}
	}
	if len(whys) == 0 {
		return
	}
	fmt.Fprintf(b, "\n## %s\n\n", title)
	if text != "" {
		fmt.Fprintf(b, "%s\n\n", text)
	}
	b.WriteString("| spec | why |\n|---|---|\n")
	for _, spec := range slices.Sorted(maps.Keys(whys)) {
		only := ""
		if len(in[spec]) < len(runs) {
			only = "(" + strings.Join(in[spec], ", ") + ") "
		}
		fmt.Fprintf(b, "| %s | %s%s |\n", cell(spec), only, cell(whys[spec]))
	}
}

// passes lists what passed, with the time it took in each run.
func passes(b *strings.Builder, runs []run) {
	seconds := map[string][]string{}
	b.WriteString("\n## Passed\n\n| spec |")
	for i, r := range runs {
		fmt.Fprintf(b, " seconds, %s |", r.pods)
		for _, s := range r.results {
			if s.outcome != passed {
				continue
			}
			if seconds[s.spec] == nil {
				seconds[s.spec] = slices.Repeat([]string{"–"}, len(runs))
			}
			seconds[s.spec][i] = fmt.Sprintf("%.1f", s.took.Seconds())
		}
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(runs)) + "\n")
	for _, spec := range slices.Sorted(maps.Keys(seconds)) {
		fmt.Fprintf(b, "| %s | %s |\n", cell(spec), strings.Join(seconds[spec], " | "))
	}
}

// cell makes text fit for a cell of a Markdown table.
func cell(text string) string {
	return strings.NewReplacer("|", "\\|", "\n", " ", "<", "&lt;").Replace(strings.TrimSpace(text))
}
