// Command critest runs Kubernetes' conformance suite for container runtimes on
// a cluster of virtual machines and writes what came of it as a page.
//
//	critest [-handler NAME] [-focus REGEXP] [-o PAGE]   run; write the page of this run and the other handler's last
//	critest -page -o PAGE                               write the page of the last runs
//
// The reports of runs are in the directory that -reports names. It fails if a
// spec fails that expected.toml does not list.
package main

import (
	"cmp"
	"context"
	"debug/buildinfo"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/kata-cc/kata-cc/test/cluster"
)

// seed makes Ginkgo take the specs in the same order each time.
const seed = "1"

func main() {
	var o options
	flag.StringVar(&o.page, "o", "", "write the page here")
	flag.BoolVar(&o.pageOnly, "page", false, "run nothing")
	flag.StringVar(&o.reports, "reports", ".cache/critest", "directory of critest's JUnit reports and logs")
	flag.StringVar(&o.focus, "focus", "", "run only the specs whose text matches")
	flag.StringVar(&o.handler, "handler", "", "runtime handler; none: containerd's default, "+cluster.Handler+"; "+cluster.SandboxHandler+" makes pods by the sandbox API")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := critest(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "critest:", err)
		os.Exit(1)
	}
}

// options are those of the command line.
type options struct {
	page, reports, focus, handler string
	pageOnly                      bool
}

// report is the file of the last whole run with a handler, or of the last with a
// focus.
func (o options) report(handler string) string {
	name := cmp.Or(handler, cluster.Handler)
	if o.focus != "" {
		name += "-focus"
	}
	return filepath.Join(o.reports, name+".xml")
}

func critest(ctx context.Context, o options) error {
	e, err := parseExpectations(expectedText)
	if err != nil {
		return err
	}
	if o.page != "" && o.focus != "" {
		return errors.New("a page is of whole runs: -o and -focus exclude each other")
	}
	paths, err := cluster.FindPaths()
	if err != nil {
		return err
	}
	if o.pageOnly {
		return writePage(paths, o, e)
	}
	if err = runSpecs(ctx, paths, e, o); err != nil {
		return err
	}
	results, _, err := readReport(o.report(o.handler), e)
	if err != nil {
		return err
	}
	counts := map[outcome]int{}
	for _, r := range results {
		counts[r.outcome]++
	}
	fmt.Printf("%d passed, %d failed, %d skipped by us, %d skipped by critest\n",
		counts[passed], counts[failed], counts[skippedByUs], counts[skippedByIt])
	if o.page != "" {
		if err := writePage(paths, o, e); err != nil {
			return err
		}
	}
	if list := surprises(results, e, o.focus == ""); len(list) > 0 {
		return errors.New("not as expected.toml says:\n  " + strings.Join(list, "\n  "))
	}
	return nil
}

// writePage writes the page of the last whole run with each handler.
func writePage(paths cluster.Paths, o options, e expectations) error {
	var runs []run
	for _, h := range []struct{ handler, pods string }{{cluster.Handler, "with a pause container"}, {cluster.SandboxHandler, "by the sandbox API"}} {
		results, started, err := readReport(o.report(h.handler), e)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		runs = append(runs, run{pods: h.pods, started: started, results: results})
	}
	a, err := describe(paths)
	if err != nil {
		return err
	}
	return os.WriteFile(o.page, []byte(page(a, runs, e)), 0o644)
}

// runSpecs starts a cluster, runs critest on it and leaves its report and log.
// That specs failed is in the report and no error of this.
func runSpecs(ctx context.Context, paths cluster.Paths, e expectations, o options) (err error) {
	c, err := cluster.Start(ctx, cluster.Options{
		VMM:     paths.ChooseVMM(os.Getenv("VMM")),
		Mirrors: registries,
		Kata:    cluster.Kata{"runtime": {"disable_guest_seccomp": false}},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeCluster(c)) }()
	if err = pushImages(ctx, c); err != nil {
		return err
	}
	report, err := filepath.Abs(o.report(o.handler))
	if err != nil {
		return err
	}
	temp := filepath.Join(c.Dir, "tmp")
	if err = errors.Join(os.MkdirAll(filepath.Dir(report), 0o755), os.Mkdir(temp, 0o755)); err != nil {
		return err
	}
	base := strings.TrimSuffix(report, filepath.Ext(report))
	log, err := os.Create(base + ".log")
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := command(ctx, c, e, o, report, temp)
	cmd.Stdout, cmd.Stderr = io.MultiWriter(log, &progress{out: os.Stdout}), log
	_ = os.Remove(report)
	runErr := cmd.Run()
	keepLogs(c, base)
	if _, err = os.Stat(report); err != nil || ctx.Err() != nil {
		return fmt.Errorf("critest did not end (see %s): %w", log.Name(), errors.Join(runErr, err, ctx.Err()))
	}
	return nil
}

// command is critest as it is run on a cluster.
func command(ctx context.Context, c *cluster.Cluster, e expectations, o options, report, temp string) *exec.Cmd {
	endpoint := "unix://" + filepath.Join(c.Dir, "containerd.sock")
	args := append([]string{
		"-runtime-endpoint", endpoint, "-image-endpoint", endpoint,
		"-ginkgo.seed", seed, "-ginkgo.no-color", "-ginkgo.v", "-ginkgo.timeout", specsTimeout.String(),
		"-ginkgo.junit-report", report, "-ginkgo.focus", o.focus, "-runtime-handler", o.handler,
	}, e.skipFlags()...)
	cmd := exec.CommandContext(ctx, filepath.Join(c.Paths.Tools, "critest"), args...)
	cmd.Env, cmd.Dir = append(c.Env(), "TMPDIR="+temp), temp
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) } // so that it removes its pods
	cmd.WaitDelay = interruptTimeout
	// Shared memory that a spec makes on "the host" goes away with critest.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWIPC, Setpgid: true}
	return cmd
}

// keepLogs copies the logs of the daemons, which go away with the cluster, and
// learns from containerd's which sandboxes and containers there were.
func keepLogs(c *cluster.Cluster, base string) {
	for _, name := range []string{"containerd", "tardev-snapshotter"} {
		text, err := os.ReadFile(filepath.Join(c.Dir, "log", name+".log"))
		if err == nil {
			err = os.WriteFile(base+"."+name+".log", text, 0o644)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "critest: keep a log:", err)
		}
		c.RememberAll(string(text))
	}
}

// closeCluster removes everything; that something is left is an error.
func closeCluster(c *cluster.Cluster) error {
	ctx := context.Background()
	err := c.Close(ctx)
	left, censusErr := c.AwaitGone(ctx, nil)
	if len(left) > 0 {
		err = errors.Join(err, fmt.Errorf("left behind:\n%s", left))
	}
	return errors.Join(err, censusErr)
}

// describe reads what was run from the programs themselves.
func describe(p cluster.Paths) (about, error) {
	a := about{
		VMM:       filepath.Base(p.ChooseVMM(os.Getenv("VMM")).Path),
		Processor: fmt.Sprintf("%d processors", runtime.NumCPU()),
	}
	for program, version := range map[string]*string{"critest": &a.Critest, "containerd": &a.Containerd} {
		info, err := buildinfo.ReadFile(filepath.Join(p.Tools, program))
		if err != nil {
			return a, err
		}
		*version = info.Main.Version
	}
	return a, nil
}
