package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/guest/cgroup"
)

// isolatedEnv marks the process that has its own namespaces.
const isolatedEnv = "KATA_AGENT_ISOLATED"

// isolateSelf returns in a copy of this process that is alone in its
// namespaces; the first process waits for it and exits as it does.
func isolateSelf() error {
	if os.Getenv(isolatedEnv) != "" {
		if err := os.Unsetenv(isolatedEnv); err != nil {
			return err
		}
		return privateTree()
	}
	runtime.LockOSThread() // Pdeathsig is about the thread, not the process
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), isolatedEnv+"=1")
	cmd.SysProcAttr = &unix.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWNET,
		Pdeathsig:  unix.SIGKILL,
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start in new namespaces: %w", err)
	}
	go func() {
		for sig := range signals {
			_ = cmd.Process.Signal(sig)
		}
	}()
	_ = cmd.Wait()
	os.Exit(max(cmd.ProcessState.ExitCode(), 0))
	return nil
}

// privateTree gives this mount namespace a /proc and a /run of its own, and
// only the unified cgroup hierarchy.
func privateTree() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	for _, m := range []struct{ fstype, target, data string }{
		{"proc", "/proc", ""},
		{"tmpfs", "/run", "mode=0755"},
		{"cgroup2", cgroup.Root, ""},
	} {
		if err := unix.Mount(m.fstype, m.target, m.fstype, 0, m.data); err != nil {
			return fmt.Errorf("mount %s at %s: %w", m.fstype, m.target, err)
		}
	}
	return nil
}
