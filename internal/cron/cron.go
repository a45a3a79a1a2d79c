// Package cron says at which times a schedule comes: cron's five fields, or one of its words (@daily, @every 1h30m), in
// a time zone.
//
// It decides what a schedule means where clocks are changed: one whose hour field begins with * goes by time that
// passes, so that it comes every hour of a day of 23 or 25 hours; any other goes by the clock on the wall, so that it
// comes once a day: one that falls into the hour that is left out comes as much later, one that falls into the hour that
// comes twice comes the first time. The fields are read by github.com/robfig/cron/v3, which Kubernetes uses as well; the
// time zones are in the binary. It owns no clock and never runs anything.
package cron

import (
	"errors"
	"fmt"
	"strings"
	"time"
	_ "time/tzdata" // for hosts that have no time zones

	robfig "github.com/robfig/cron/v3"
)

const (
	// maxLength is the longest schedule in bytes: one that lists every minute has some 170.
	maxLength = 1024
	// overlap is more than clocks are ever put forward by at once.
	overlap = 3 * time.Hour
)

// Schedule is when something happens again and again. It is safe for concurrent use.
type Schedule struct {
	spec  robfig.Schedule // in zone, or of the clock on the wall in UTC
	every time.Duration   // of @every; 0: spec says
	wall  bool
	zone  *time.Location
}

// Parse reads a schedule; zone is a name of the IANA's database, "" is UTC. The error says what is wrong, without
// naming the schedule.
func Parse(text, zone string) (*Schedule, error) {
	if zone == "Local" { // of which node?
		return nil, errors.New("unknown time zone Local")
	}
	loc, err := time.LoadLocation(zone)
	if err != nil {
		return nil, err
	}
	fields := strings.Fields(text)
	switch {
	case len(text) > maxLength:
		return nil, fmt.Errorf("%d bytes are too many, at most %d", len(text), maxLength)
	case strings.Contains(text, "TZ="):
		return nil, errors.New("the time zone has a field of its own")
	case len(fields) == 0:
		return nil, errors.New("it is empty")
	}
	s := &Schedule{zone: loc}
	if s.spec, err = robfig.ParseStandard(strings.Join(fields, " ")); err != nil {
		return nil, err
	}
	switch spec := s.spec.(type) {
	case robfig.ConstantDelaySchedule:
		s.every = spec.Delay // rounded to a second, and up to one
		if said, err := time.ParseDuration(fields[len(fields)-1]); err != nil || said < time.Second {
			return nil, fmt.Errorf("%s is too often, at least 1s", said)
		}
	case *robfig.SpecSchedule:
		hours := "*"
		if len(fields) > 1 {
			hours = fields[1]
		} else if fields[0] != "@hourly" {
			hours = "0"
		}
		s.wall = !strings.HasPrefix(hours, "*") && hours != "?"
		if spec.Location = loc; s.wall {
			spec.Location = time.UTC
		}
		if spec.Next(time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
			return nil, errors.New("it never comes")
		}
	default:
		return nil, errors.New("it is not a schedule")
	}
	return s, nil
}

// Next is the first time of the schedule after a time; since is when the schedule was set, or a time of it: what @every
// counts from.
func (s *Schedule) Next(since, after time.Time) time.Time {
	switch {
	case s.every > 0:
		if after.Before(since) {
			return since.Add(s.every).UTC()
		}
		return since.Add((after.Sub(since)/s.every + 1) * s.every).UTC()
	case !s.wall:
		return s.spec.Next(after.In(s.zone)).UTC()
	}
	for w := onWall(after.In(s.zone)).Add(-overlap); ; {
		if w = s.spec.Next(w); w.IsZero() {
			return time.Time{}
		}
		if t := s.instant(w); t.After(after) {
			return t.UTC()
		}
	}
}

// Latest is the last time of the schedule in (after, until]; ok is false if there is none.
func (s *Schedule) Latest(since, after, until time.Time) (at time.Time, ok bool) {
	in := func(t time.Time) bool { return !t.IsZero() && !t.After(until) }
	if !in(s.Next(since, after)) {
		return time.Time{}, false
	}
	low, high := after, until // the first time after low has come, that after high has not
	for high.Sub(low) > time.Second {
		if mid := low.Add(high.Sub(low) / 2); in(s.Next(since, mid)) {
			low = mid
		} else {
			high = mid
		}
	}
	at = s.Next(since, low)
	for next := s.Next(since, at); in(next); next = s.Next(since, at) {
		at = next
	}
	return at, true
}

// onWall is what a clock on the wall shows at a time of a zone, as a time in UTC.
func onWall(t time.Time) time.Time {
	_, offset := t.Zone()
	return t.UTC().Add(time.Duration(offset) * time.Second)
}

// instant is when a clock on the wall shows w for the first time, or, if it never does, what it would have been.
func (s *Schedule) instant(w time.Time) time.Time {
	before := s.offset(w.Add(-24 * time.Hour))
	for _, o := range []time.Duration{before, s.offset(w.Add(24 * time.Hour))} {
		if t := w.Add(-o); onWall(t.In(s.zone)).Equal(w) {
			return t
		}
	}
	return w.Add(-before)
}

// offset is that of the zone at a time.
func (s *Schedule) offset(t time.Time) time.Duration {
	_, o := t.In(s.zone).Zone()
	return time.Duration(o) * time.Second
}
