package memory

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// ScriptEnv is the environment variable in which a VMM process finds its
// script: JSON text, or the absolute path of a file with it. A launcher's
// environment is inherited by the VMM, so a test sets it on the launcher.
const ScriptEnv = "CLH_MEMORY_SCRIPT"

// Script is what a machine without a guest is to do. The zero value boots at
// once, prints nothing, lets go of devices at once and refuses every vsock port.
// In paths "{id}" stands for the name of the machine's directory (the sandbox
// id) and "{dir}" for the directory itself.
type Script struct {
	// Vsock maps a guest's port to the Unix stream socket on the host that
	// stands for the guest's listener: {"1024": "/tmp/agent.sock"}.
	Vsock map[uint32]string `json:"vsock,omitempty"`
	// Hybrid is a socket that speaks the hybrid handshake itself and gets every
	// connection whose port is not in Vsock.
	Hybrid string `json:"hybrid,omitempty"`
	// Up is how long after vm.boot the guest's vsock device works; until then
	// connections wait.
	Up Duration `json:"up,omitempty"`
	// Console is what the guest prints on the serial console at boot.
	Console string `json:"console,omitempty"`
	// BootError, if not empty, is why vm.boot fails, after Console was printed.
	BootError string `json:"boot_error,omitempty"`
	// Eject is how long the guest takes to let go of a device; "never" is for ever.
	Eject Duration `json:"eject,omitempty"`
	// EjectCPUs is how long the guest takes to let go of processors.
	EjectCPUs Duration `json:"eject_cpus,omitempty"`
	// Reserved lists device numbers that the machine keeps for itself.
	Reserved []uint8 `json:"reserved,omitempty"`
	// Version is the version of Cloud Hypervisor to behave like; "" is 40.0.0.
	Version string `json:"version,omitempty"`
	// Features are what the build says it has besides "memory".
	Features []string `json:"features,omitempty"`
	// Guest is what happens by itself after boot.
	Guest []Step `json:"guest,omitempty"`
	// Faults are injected into the API.
	Faults []Fault `json:"faults,omitempty"`
}

// Step is something the guest does.
type Step struct {
	After Duration `json:"after"` // since vm.boot
	// Do is "poweroff", "reboot", "panic" or "print", or of the VMM: "die" (a part
	// of it fails, and it ends as after a power-off), "exit" with Status, "kill" by
	// Signal.
	Do     string `json:"do"`
	Text   string `json:"text,omitempty"` // of "print", "die", "exit" and "kill"
	Status int    `json:"status,omitempty"`
	Signal int    `json:"signal,omitempty"`
}

// Fault is something that goes wrong with one call of the API, or with all.
type Fault struct {
	Endpoint string `json:"endpoint"`       // "vm.add-disk"
	Call     int    `json:"call,omitempty"` // the how many-th call of the endpoint; 0: every one
	// Do is one of
	//	fail       answers Status (500) and Text, and does nothing
	//	fail-after does it and answers Status and Text
	//	delay      waits For, then does it and answers
	//	late       does it, waits For, then answers
	//	hang       never answers nor does it; nothing else is answered until the VMM is told to end
	//	stuck      as hang, and the VMM does not even react to SIGTERM
	//	drop       does it and closes the connection
	//	die        the process exits with Status (0: killed by SIGKILL), Text on its standard error
	//	die-after  does it, then dies
	Do     string   `json:"do"`
	Status int      `json:"status,omitempty"`
	Signal int      `json:"signal,omitempty"` // that "die" dies of where Status is 0; 0: SIGKILL
	Text   string   `json:"text,omitempty"`
	For    Duration `json:"for,omitempty"`
	// Mark is the path of an empty file to make when the fault happens, so that a
	// test knows it did; empty: none.
	Mark string `json:"mark,omitempty"`
}

// Never is the duration of what does not happen, "never" in JSON.
const Never Duration = -1

// Duration is a time.Duration that JSON writes as "150ms", or "never".
type Duration time.Duration

// MarshalText writes the duration as Go does.
func (d Duration) MarshalText() ([]byte, error) {
	if d == Never {
		return []byte("never"), nil
	}
	return []byte(time.Duration(d).String()), nil
}

// UnmarshalText reads what MarshalText writes.
func (d *Duration) UnmarshalText(text []byte) error {
	if string(text) == "never" {
		*d = Never
		return nil
	}
	v, err := time.ParseDuration(string(text))
	if err != nil || v < 0 {
		return fmt.Errorf("duration %q: neither a time such as 150ms nor never: %w", text, errdefs.ErrInvalidArgument)
	}
	*d = Duration(v)
	return nil
}

// String gives the JSON text of s, for ScriptEnv.
func (s Script) String() string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // nothing in a Script fails to encode
	}
	return string(b)
}

// ParseScript reads a script and checks it. Unknown members are an error.
func ParseScript(text []byte) (Script, error) {
	var s Script
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return s, fmt.Errorf("script of the machine: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return s, fmt.Errorf("script of the machine: more than one value: %w", errdefs.ErrInvalidArgument)
	}
	return s, s.check()
}

func (s Script) check() error {
	for _, f := range s.Faults {
		if _, ok := faults[f.Do]; !ok {
			return fmt.Errorf("script of the machine: fault %q of %s is unknown: %w", f.Do, f.Endpoint, errdefs.ErrInvalidArgument)
		}
	}
	for _, g := range s.Guest {
		switch g.Do {
		case "poweroff", "reboot", "panic", "die", "print", "exit", "kill":
		default:
			return fmt.Errorf("script of the machine: the guest cannot %q: %w", g.Do, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// ScriptFromEnv reads the script that ScriptEnv names; without one it is zero.
func ScriptFromEnv() (Script, error) {
	text := os.Getenv(ScriptEnv)
	if text == "" {
		return Script{}, nil
	}
	if filepath.IsAbs(text) {
		b, err := os.ReadFile(text)
		if err != nil {
			return Script{}, fmt.Errorf("script of the machine: %w", err)
		}
		return ParseScript(b)
	}
	return ParseScript([]byte(text))
}

// expand fills in where the machine of the vsock socket lives.
func expand(path, socket string) string {
	dir := filepath.Dir(socket)
	return strings.NewReplacer("{id}", filepath.Base(dir), "{dir}", dir).Replace(path)
}
