package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// about is what is told of a run beside its results.
type about struct {
	Critest, Containerd, VMM, Processor string
	Date                                time.Time
}

const pageHead = `# Conformance

[critest](https://github.com/kubernetes-sigs/cri-tools), the conformance suite of the Container Runtime Interface, against containerd with this runtime as the default handler: every pod of it is a virtual machine. ` + "`sudo make critest`" + ` runs it and writes this page; it is not part of ` + "`make test`" + `.

The node is that of the other end-to-end tests, with the tardev snapshotter and with ` + "`disable_guest_seccomp = false`" + `. The images are built for the run under the names that critest asks for, on Debian's busybox; small programs stand for nginx, httpd and the test of ` + "`no_new_privs`" + ` (` + "`test/critest`" + `). No outside registry is used. ` + "`test/critest/expected.toml`" + ` lists what is skipped, and what is known to fail; the target fails if anything else fails, and if something listed there passes.

` + "`make critest FOCUS=regexp`" + ` runs some of the specs, ` + "`go run ./test/critest -handler kata-cc-sandbox`" + ` those of pods that are made by the [sandbox API](task-service.md). There *Security Context NamespaceOption runtime should support PodPID* fails: it wants process 1 of a shared pid namespace to be a pause container's, and there is none.
`

// page is the document of a run.
func page(a about, results []result, e expectations) string {
	var b strings.Builder
	b.WriteString(pageHead)
	counts, total := map[outcome]int{}, time.Duration(0)
	for _, r := range results {
		counts[r.outcome]++
		total += r.took
	}
	fmt.Fprintf(&b, "\nRun on %s: critest %s, containerd %s, virtual machines by `%s`, %s; the specs took %s together.\n\n",
		a.Date.Format(time.DateOnly), a.Critest, a.Containerd, a.VMM, a.Processor, total.Round(time.Second))
	b.WriteString("| passed | failed | skipped by us | skipped by critest | all |\n|---|---|---|---|---|\n")
	fmt.Fprintf(&b, "| **%d** | %d | %d | %d | %d |\n", counts[passed], counts[failed], counts[skippedByUs], counts[skippedByIt], len(results))

	section(&b, "Failed", "", results, failed, e)
	section(&b, "Skipped by us", "What a container in a virtual machine, or a run without an outside registry, cannot do.", results, skippedByUs, e)
	section(&b, "Skipped by critest", "It asks the runtime or the host first, and was told that there is nothing to test.", results, skippedByIt, e)

	b.WriteString("\n## Passed\n\n| spec | seconds |\n|---|---|\n")
	for _, r := range results {
		if r.outcome == passed {
			fmt.Fprintf(&b, "| %s | %.1f |\n", cell(r.spec), r.took.Seconds())
		}
	}
	return b.String()
}

func section(b *strings.Builder, title, text string, results []result, o outcome, e expectations) {
	if !slices.ContainsFunc(results, func(r result) bool { return r.outcome == o }) {
		return
	}
	fmt.Fprintf(b, "\n## %s\n\n", title)
	if text != "" {
		fmt.Fprintf(b, "%s\n\n", text)
	}
	b.WriteString("| spec | why |\n|---|---|\n")
	for _, r := range results {
		if r.outcome != o {
			continue
		}
		why := r.why
		if reason, known := find(e.Failing, r.spec); known && o == failed {
			why = reason
		}
		fmt.Fprintf(b, "| %s | %s |\n", cell(r.spec), cell(why))
	}
}

// cell makes text fit for a cell of a Markdown table.
func cell(text string) string {
	return strings.NewReplacer("|", "\\|", "\n", " ", "<", "&lt;").Replace(strings.TrimSpace(text))
}
