package config

import (
	"io"
	"log/slog"
	"os"
)

// SetLogger makes NewLogger's logger the program's. What libraries log by the
// standard log is for debugging.
func SetLogger(w io.Writer, level slog.Level, version string) {
	slog.SetLogLoggerLevel(slog.LevelDebug)
	slog.SetDefault(NewLogger(w, level, version))
}

// NewLogger writes records as lines of JSON, with the keys by which hosts read
// the logs of agents: msg, level, ts, name, version, pid.
func NewLogger(w io.Writer, level slog.Level, version string) *slog.Logger {
	handler := slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) > 0 {
			return a
		}
		switch a.Key {
		case slog.TimeKey:
			a.Key = "ts"
		case slog.LevelKey:
			if l, ok := a.Value.Any().(slog.Level); ok && l == slog.LevelDebug {
				a.Value = slog.StringValue("DEBG")
			} else if ok && l == slog.LevelError {
				a.Value = slog.StringValue("ERRO")
			}
		}
		return a
	}})
	return slog.New(handler).With("name", "kata-agent", "version", version, "pid", os.Getpid())
}
