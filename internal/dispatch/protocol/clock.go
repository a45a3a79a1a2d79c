package protocol

import "time"

// MaxClockOffset is how far two clocks may be apart before it is said. Certificates bear ten minutes (pki.Leeway); the order
// of logs suffers first.
const MaxClockOffset = 30 * time.Second

// ClockOffset is an offset that matters, or 0.
func ClockOffset(d time.Duration) time.Duration {
	if d.Abs() > MaxClockOffset {
		return d
	}
	return 0
}
