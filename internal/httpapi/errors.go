package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/common"
)

// statusError is an error of this package that no class of errdefs fits.
type statusError struct {
	status int
	text   string
}

func (e *statusError) Error() string { return e.text }

var errTooLarge = &statusError{http.StatusRequestEntityTooLarge, fmt.Sprintf("request body too large: a JSON body may have at most %d bytes", MaxJSON)}

// invalid is an InvalidArgument with exactly this text.
func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

// absent is a NotImplemented with exactly this text.
func absent(format string, args ...any) error {
	return errdefs.ErrNotImplemented.WithMessage(fmt.Sprintf(format, args...))
}

// statusOf is the one mapping from a class of error to a status; it is that of Docker's daemon.
func statusOf(err error) int {
	var own *statusError
	if errors.As(err, &own) {
		return own.status
	}
	switch {
	case errdefs.IsNotFound(err):
		return http.StatusNotFound
	case errdefs.IsInvalidArgument(err), errdefs.IsFailedPrecondition(err), errdefs.IsOutOfRange(err):
		return http.StatusBadRequest
	case errdefs.IsConflict(err), errdefs.IsAlreadyExists(err), errdefs.IsAborted(err):
		return http.StatusConflict
	case errdefs.IsResourceExhausted(err):
		return http.StatusTooManyRequests
	case errdefs.IsUnauthorized(err):
		return http.StatusUnauthorized
	case errdefs.IsUnavailable(err):
		return http.StatusServiceUnavailable
	case errdefs.IsPermissionDenied(err):
		return http.StatusForbidden
	case errdefs.IsNotModified(err):
		return http.StatusNotModified
	case errdefs.IsNotImplemented(err):
		return http.StatusNotImplemented
	}
	return http.StatusInternalServerError
}

// fail answers with an error, or cuts the connection if the answer has begun. ctx is that of the connection.
func (a *api) fail(ctx context.Context, c *call, err error) {
	if ctx.Err() != nil {
		// The client is gone, or the daemon ends and the client is there: to it no answer would be one that all went well.
		if c.w.status == 0 {
			writeError(c.w, c.Request, http.StatusServiceUnavailable, "the daemon stopped before this was done, or while it was: "+err.Error())
		}
		return
	}
	status := statusOf(err)
	if status == http.StatusInternalServerError {
		if errors.Is(err, context.DeadlineExceeded) && c.route.within > 0 {
			err = fmt.Errorf("%s took longer than %s: %w", c.route.key(), c.route.within, err)
		}
		a.Log.Error("request failed", "method", c.Method, "path", c.URL.Path, "error", err)
	}
	if c.w.status != 0 {
		panic(http.ErrAbortHandler)
	}
	if status == http.StatusNotModified {
		c.w.WriteHeader(status)
		return
	}
	writeError(c.w, c.Request, status, err.Error())
}

func writeError(w *response, r *http.Request, status int, text string) {
	b, err := json.Marshal(common.ErrorResponse{Message: text})
	if err != nil { // a string always marshals
		b = []byte(`{"message":"internal server error"}`)
	}
	h := w.Header()
	h.Del("Content-Length")
	h.Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(append(b, '\n'))
	}
}
