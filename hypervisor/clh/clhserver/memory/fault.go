package memory

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver"
)

var faults = map[string]func(ctx context.Context, f Fault, serve func() clhserver.Response) clhserver.Response{
	"fail": func(_ context.Context, f Fault, _ func() clhserver.Response) clhserver.Response { return f.answer() },
	"fail-after": func(_ context.Context, f Fault, serve func() clhserver.Response) clhserver.Response {
		serve()
		return f.answer()
	},
	"delay": func(ctx context.Context, f Fault, serve func() clhserver.Response) clhserver.Response {
		sleep(ctx, f.For)
		return serve()
	},
	"late": func(ctx context.Context, f Fault, serve func() clhserver.Response) clhserver.Response {
		r := serve()
		sleep(ctx, f.For)
		return r
	},
	"hang": func(ctx context.Context, _ Fault, _ func() clhserver.Response) clhserver.Response {
		<-ctx.Done()
		return clhserver.Response{Drop: true}
	},
	"stuck": func(context.Context, Fault, func() clhserver.Response) clhserver.Response {
		for {
			time.Sleep(time.Hour)
		}
	},
	"drop": func(_ context.Context, _ Fault, serve func() clhserver.Response) clhserver.Response {
		serve()
		return clhserver.Response{Drop: true}
	},
	"die": func(_ context.Context, f Fault, _ func() clhserver.Response) clhserver.Response {
		f.die()
		return clhserver.Response{Drop: true}
	},
	"die-after": func(_ context.Context, f Fault, serve func() clhserver.Response) clhserver.Response {
		serve()
		f.die()
		return clhserver.Response{Drop: true}
	},
}

func (f Fault) answer() clhserver.Response {
	r := clhserver.Response{Status: f.Status, Body: []byte(f.Text)}
	if r.Status == 0 {
		r.Status = http.StatusInternalServerError
	}
	return r
}

// Intercept injects the script's faults: the first that fits a call.
func (s Script) Intercept(ctx context.Context, c clhserver.Call, serve func() clhserver.Response) clhserver.Response {
	for _, f := range s.Faults {
		if f.Endpoint == c.Endpoint && (f.Call == 0 || f.Call == c.Count) {
			f.mark()
			return faults[f.Do](ctx, f, serve)
		}
	}
	return serve()
}

// mark leaves the fault's mark. One that is missing fails the test that looks
// for it.
func (f Fault) mark() {
	if f.Mark == "" {
		return
	}
	if err := os.WriteFile(f.Mark, nil, 0o600); err != nil {
		fmt.Fprintf(os.Stderr, "mark of a fault of %s: %v\n", f.Endpoint, err)
	}
}

func sleep(ctx context.Context, d Duration) {
	if d == Never {
		<-ctx.Done()
		return
	}
	select {
	case <-time.After(time.Duration(d)):
	case <-ctx.Done():
	}
}

// die ends the process as a crash does: nothing is cleaned up.
func (f Fault) die() {
	if f.Status != 0 {
		exit(f.Status, f.Text)
	}
	kill(f.Signal, f.Text)
}

func exit(status int, text string) {
	if text != "" {
		fmt.Fprintln(os.Stderr, text)
	}
	os.Exit(status)
}

// kill has the process die of a signal, SIGKILL if that is 0. Go's runtime handles
// most of them, so a program without it takes the process over first.
func kill(signal int, text string) {
	if text != "" {
		fmt.Fprintln(os.Stderr, text)
	}
	if signal == 0 {
		signal = int(syscall.SIGKILL)
	}
	err := syscall.Exec("/bin/sh", []string{"sh", "-c", fmt.Sprintf("kill -%d $$", signal)}, nil)
	fmt.Fprintf(os.Stderr, "die of signal %d: %v\n", signal, err)
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}
