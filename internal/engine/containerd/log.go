package containerd

import (
	"context"
	"io"
	"log/slog"
	"slices"

	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc/grpclog"
)

// RedirectLogs sends what containerd's own code logs, at warning level and above, to l, and silences gRPC. containerd
// logs through a global of the process, so this is for a program's main to call once, before Open.
func RedirectLogs(l *slog.Logger) {
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard))
	logger := log.L.Logger
	logger.SetLevel(logrus.WarnLevel)
	logger.SetOutput(io.Discard)
	logger.ReplaceHooks(logrus.LevelHooks{})
	logger.AddHook(toSlog{l.With("component", "containerd")})
}

// noise is what containerd warns of although all is well: with every removed container, at every start and stop.
func noise() []string {
	return []string{"copy shim log", "copy shim log after reload", "failed check for fsverity support", "garbage collection failed", "snapshot garbage collection failed",
		"failed to finish collection context", "failed sending message on channel",
		"failed to delete task", "warnings while cleaning up dead shim"}
}

// toSlog is a hook of logrus that passes entries on.
type toSlog struct{ to *slog.Logger }

func (toSlog) Levels() []logrus.Level { return logrus.AllLevels }

func (h toSlog) Fire(e *logrus.Entry) error {
	level := slog.LevelError
	switch e.Level {
	case logrus.WarnLevel:
		level = slog.LevelWarn
	case logrus.InfoLevel:
		level = slog.LevelInfo
	case logrus.DebugLevel, logrus.TraceLevel:
		level = slog.LevelDebug
	}
	if slices.Contains(noise(), e.Message) {
		level = slog.LevelDebug
	}
	ctx := e.Context
	if ctx == nil {
		ctx = context.Background()
	}
	attrs := make([]any, 0, 2*len(e.Data))
	for k, v := range e.Data {
		if err, ok := v.(error); ok {
			v = err.Error()
		}
		attrs = append(attrs, k, v)
	}
	h.to.Log(ctx, level, e.Message, attrs...)
	return nil
}
