package consensus

import (
	"context"
	"io"
	"log"
	"log/slog"
	"slices"
	"strings"

	"github.com/hashicorp/go-hclog"
)

// hclogger lets raft log through slog. Raft's info is our debug: it reports each of its steps.
type hclogger struct {
	log  *slog.Logger
	name string
	args []any
}

var _ hclog.Logger = hclogger{}

func newHclog(l *slog.Logger) hclog.Logger { return hclogger{log: l, name: "raft"} }

func slogLevel(l hclog.Level) slog.Level {
	switch l {
	case hclog.Error:
		return slog.LevelError
	case hclog.Warn:
		return slog.LevelWarn
	case hclog.Trace:
		return slog.LevelDebug - 4
	}
	return slog.LevelDebug
}

// Log writes one event. Raft's errors are warnings here: they are about other managers, and it goes on.
func (h hclogger) Log(level hclog.Level, msg string, args ...any) {
	l := slogLevel(level)
	if l == slog.LevelError {
		l = slog.LevelWarn
	}
	ctx := context.Background()
	if !h.log.Enabled(ctx, l) {
		return
	}
	// Raft's own names of members would hide ours.
	args = slices.Clone(args)
	for i := 0; i+1 < len(args); i += 2 {
		if args[i] == "node" {
			args[i] = "member"
		}
	}
	h.log.Log(ctx, l, "raft: "+strings.ToLower(msg[:min(1, len(msg))])+msg[min(1, len(msg)):], args...)
}

func (h hclogger) Trace(msg string, args ...any) { h.Log(hclog.Trace, msg, args...) }
func (h hclogger) Debug(msg string, args ...any) { h.Log(hclog.Debug, msg, args...) }
func (h hclogger) Info(msg string, args ...any)  { h.Log(hclog.Info, msg, args...) }
func (h hclogger) Warn(msg string, args ...any)  { h.Log(hclog.Warn, msg, args...) }
func (h hclogger) Error(msg string, args ...any) { h.Log(hclog.Error, msg, args...) }

func (h hclogger) enabled(l hclog.Level) bool {
	return h.log.Enabled(context.Background(), slogLevel(l))
}
func (h hclogger) IsTrace() bool { return h.enabled(hclog.Trace) }
func (h hclogger) IsDebug() bool { return h.enabled(hclog.Debug) }
func (h hclogger) IsInfo() bool  { return h.enabled(hclog.Info) }
func (h hclogger) IsWarn() bool  { return h.enabled(hclog.Warn) }
func (h hclogger) IsError() bool { return h.enabled(hclog.Error) }

func (h hclogger) ImpliedArgs() []any { return h.args }

func (h hclogger) With(args ...any) hclog.Logger {
	return hclogger{h.log.With(args...), h.name, append(slices.Clone(h.args), args...)}
}
func (h hclogger) Name() string { return h.name }
func (h hclogger) Named(name string) hclog.Logger {
	return hclogger{h.log, h.name + "." + name, h.args}
}
func (h hclogger) ResetNamed(name string) hclog.Logger { return hclogger{h.log, name, h.args} }

// SetLevel does nothing: the level is the handler's.
func (h hclogger) SetLevel(hclog.Level) {}

// GetLevel is the lowest level that is written.
func (h hclogger) GetLevel() hclog.Level {
	for _, l := range []hclog.Level{hclog.Trace, hclog.Debug, hclog.Warn} {
		if h.enabled(l) {
			return l
		}
	}
	return hclog.Error
}

func (h hclogger) StandardLogger(o *hclog.StandardLoggerOptions) *log.Logger {
	return log.New(h.StandardWriter(o), "", 0)
}

// StandardWriter takes lines at the level warn.
func (h hclogger) StandardWriter(*hclog.StandardLoggerOptions) io.Writer { return lineWriter{h} }

type lineWriter struct{ h hclogger }

func (w lineWriter) Write(p []byte) (int, error) {
	w.h.Warn(strings.TrimSpace(string(p)))
	return len(p), nil
}
