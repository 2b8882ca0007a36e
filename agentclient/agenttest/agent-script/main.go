// Command agent-script runs a scripted agent as a process, for tests that drive
// other programs.
//
//	agent-script -hybrid /run/x/clh.sock [-flavour azl1] [-script processes.json]
//
// processes.json is a list of {"args": ["/bin/app"], "stdout": "hi\n", "exit": 3}
// with the fields of agenttest.Script. It ends on SIGTERM and SIGINT.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/agentclient/agenttest"
)

func main() {
	hybrid := flag.String("hybrid", "", "`path` of a unix socket that speaks hybrid vsock")
	plain := flag.String("plain", "", "`path` of a unix socket without a handshake")
	flavour := flag.String("flavour", string(agenttest.Ours), "which agent to imitate: ours, azl1, azl5 or 4.1")
	script := flag.String("script", "", "`file` with what processes do")
	flag.Parse()
	if err := run(*hybrid, *plain, *flavour, *script); err != nil {
		fmt.Fprintln(os.Stderr, "agent-script:", err)
		os.Exit(1)
	}
}

func run(hybrid, plain, flavour, script string) error {
	a := agenttest.New(agenttest.Flavour(flavour))
	defer a.Close()
	if script != "" {
		if err := load(a, script); err != nil {
			return err
		}
	}
	if hybrid != "" {
		if err := a.ListenHybrid(hybrid); err != nil {
			return err
		}
	}
	if plain != "" {
		if err := a.ListenPlain(plain); err != nil {
			return err
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	<-ctx.Done()
	return nil
}

func load(a *agenttest.Agent, path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var processes []struct {
		Args []string `json:"args"`
		agenttest.Script
	}
	if err := json.Unmarshal(data, &processes); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, p := range processes {
		a.Script(p.Args, p.Script)
	}
	return nil
}
