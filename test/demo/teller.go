package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/kata-cc/kata-cc/test/cluster"
)

// teller prints what a person would see at a terminal, and checks it.
type teller struct {
	cluster *cluster.Cluster
	out     io.Writer
	colour  bool
	began   time.Time
	steps   int
	failed  []string
}

func newTeller(out *os.File) *teller {
	return &teller{out: out, colour: term.IsTerminal(int(out.Fd())), began: time.Now()}
}

// paint wraps text in a terminal's escape sequence.
func (t *teller) paint(code, text string) string {
	if !t.colour {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (t *teller) say(format string, args ...any) {
	fmt.Fprintf(t.out, format+"\n", args...)
}

// step heads a part of the story.
func (t *teller) step(title, format string, args ...any) {
	t.steps++
	at := time.Since(t.began).Round(100 * time.Millisecond)
	fmt.Fprintf(t.out, "\n%s\n", t.paint("1", fmt.Sprintf("── %d. %s (%s)", t.steps, title, at)))
	t.say(format, args...)
}

// show runs a line of shell on the node, shows both and returns the output.
func (t *teller) show(ctx context.Context, line string) (string, error) {
	t.prompt("$", line)
	out, err := t.cluster.Shell(ctx, line)
	return out, t.print(out, err)
}

// showFailing does the same with a line that is to fail, and returns what it
// says of that.
func (t *teller) showFailing(ctx context.Context, line string) string {
	t.prompt("$", line)
	out, _ := t.cluster.Shell(ctx, line+" 2>&1")
	_ = t.print(out, nil)
	return out
}

// inside does the same as root in the sandbox's guest.
func (t *teller) inside(ctx context.Context, sandbox, line string) (string, error) {
	t.prompt("guest#", line)
	out, err := t.cluster.Guest(ctx, sandbox, line)
	return out, t.print(out, err)
}

func (t *teller) prompt(prompt, line string) {
	fmt.Fprintf(t.out, "%s %s\n", t.paint("32", prompt), t.paint("36", line))
}

func (t *teller) print(out string, err error) error {
	out = strings.TrimPrefix(out, "\x1b[2J\x1b[H") // crictl stats clears the screen
	if out = strings.TrimRight(out, "\n"); out != "" {
		fmt.Fprintln(t.out, out)
	}
	return err
}

// must checks one thing that a step has to show.
func (t *teller) must(ok bool, format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	if ok {
		fmt.Fprintln(t.out, t.paint("32", "  ✓ "+what))
		return
	}
	fmt.Fprintln(t.out, t.paint("31", "  ✗ "+what))
	t.failed = append(t.failed, what)
}
