package config

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestParseCommandLine(t *testing.T) {
	for name, c := range map[string]struct {
		line string
		want func(*Config)
		err  bool
	}{
		"nothing":          {"panic=1 console=ttyS0", func(*Config) {}, false},
		"console":          {"agent.debug_console", func(c *Config) { c.DebugConsole = true }, false},
		"console port":     {"agent.debug_console agent.debug_console_vport=2000", func(c *Config) { c.DebugConsole, c.ConsolePort = true, 2000 }, false},
		"console port 0":   {"agent.debug_console_vport=0", func(*Config) {}, false},
		"log":              {"agent.log=debug", func(c *Config) { c.LogLevel = slog.LevelDebug }, false},
		"critical":         {"agent.log=critical\n", func(c *Config) { c.LogLevel = slog.LevelError }, false},
		"hot-plug":         {"quiet agent.hotplug_timeout=10", func(c *Config) { c.HotplugTimeout = 10 * time.Second }, false},
		"address":          {"agent.server_addr=vsock://-1:2048", func(c *Config) { c.ServerAddress = "vsock://-1:2048" }, false},
		"pipes":            {"agent.container_pipe_size=2097152", nil, true},
		"unknown":          {"agent.trace=true agent.something=else", func(*Config) {}, false},
		"bad log":          {"agent.log=loud", nil, true},
		"no wait":          {"agent.hotplug_timeout=0", nil, true},
		"negative pipe":    {"agent.container_pipe_size=-1", nil, true},
		"bad console port": {"agent.debug_console_vport=x", nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			got := Default()
			err := got.ParseCommandLine(c.line)
			if c.err {
				if err == nil || !strings.Contains(err.Error(), "agent.") {
					t.Errorf("error is %v, want one that names the word", err)
				}
				return
			}
			want := Default()
			c.want(&want)
			if err != nil || got != want {
				t.Errorf("got %+v, %v, want %+v", got, err, want)
			}
		})
	}
}

func FuzzParseCommandLine(f *testing.F) {
	f.Add("agent.hotplug_timeout=3 agent.debug_console=0 agent.log=info")
	f.Fuzz(func(t *testing.T, line string) {
		c := Default()
		if err := c.ParseCommandLine(line); err != nil {
			return
		}
		if c.HotplugTimeout <= 0 || c.ConsolePort == 0 || c.PipeSize < 0 || c.PipeSize > maxPipeSize {
			t.Errorf("%q gives %+v", line, c)
		}
	})
}

func TestParseEnvironment(t *testing.T) {
	env := map[string]string{"KATA_AGENT_SERVER_ADDR": "unix:///x", "KATA_AGENT_LOG_LEVEL": "warn"}
	lookup := func(k string) (string, bool) { v, ok := env[k]; return v, ok }
	c := Default()
	if err := c.ParseEnvironment(lookup); err != nil || c.ServerAddress != "unix:///x" || c.LogLevel != slog.LevelWarn {
		t.Errorf("got %+v, %v", c, err)
	}
	env["KATA_AGENT_LOG_LEVEL"] = "loud"
	if err := c.ParseEnvironment(lookup); err == nil {
		t.Error("a bad level is taken")
	}
}

func TestLogLines(t *testing.T) {
	var out bytes.Buffer
	log := NewLogger(&out, slog.LevelDebug, "kata-cc-1")
	log.Debug("hello", "container", "c")
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatal(err)
	}
	if _, err := time.Parse(time.RFC3339Nano, line["ts"].(string)); err != nil {
		t.Error(err)
	}
	for key, want := range map[string]any{"msg": "hello", "level": "DEBG", "name": "kata-agent", "version": "kata-cc-1", "container": "c"} {
		if line[key] != want {
			t.Errorf("%s is %v, want %v", key, line[key], want)
		}
	}
}
