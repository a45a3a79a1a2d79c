package ledger

import (
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// parseUntil reads the value of a filter "until": Unix seconds with or without a fraction, a date, or a duration
// before now.
func parseUntil(v string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(v); err == nil {
		return now.Add(-d), nil
	}
	whole, frac, _ := strings.Cut(v, ".")
	if sec, err := strconv.ParseInt(whole, 10, 64); err == nil && len(frac) <= 9 {
		nano, err := strconv.ParseInt("0"+frac+strings.Repeat("0", 9-len(frac)), 10, 64)
		if err == nil {
			return time.Unix(sec, nano), nil
		}
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02T15", "2006-01-02Z07:00", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, v, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, Errorf(errdefs.ErrInvalidArgument, "invalid filter 'until=%s'", v)
}
