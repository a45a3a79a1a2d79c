package cron_test

import (
	"strings"
	"testing"
	"time"

	"shoal.dev/shoal/internal/cron"
)

const layout = "2006-01-02 15:04:05 -0700"

func at(t testing.TB, text string) time.Time {
	t.Helper()
	v, err := time.Parse(layout, text)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestNext(t *testing.T) {
	const berlin = "Europe/Berlin" // forward on 2026-03-29 at 02:00, back on 2026-10-25 at 03:00
	for _, c := range []struct {
		name, text, zone, after string
		want                    []string
	}{
		{"every day", "0 3 * * *", "", "2026-01-01 00:00:00 +0000", []string{"2026-01-01 03:00:00 +0000", "2026-01-02 03:00:00 +0000"}},
		{"a word", "@daily", "", "2026-01-01 00:00:00 +0000", []string{"2026-01-02 00:00:00 +0000"}},
		{"by weekday", "30 8 * * MON-FRI", "", "2026-01-02 09:00:00 +0000", []string{"2026-01-05 08:30:00 +0000"}},
		{"in a zone", "0 3 * * *", berlin, "2026-01-01 00:00:00 +0000", []string{"2026-01-01 02:00:00 +0000"}},
		{"every so often", "@every 90s", "", "2026-01-01 00:01:00 +0000", []string{"2026-01-01 00:01:30 +0000", "2026-01-01 00:03:00 +0000"}},
		{"into the hour that is left out", "30 2 * * *", berlin, "2026-03-28 03:00:00 +0100", []string{"2026-03-29 03:30:00 +0200", "2026-03-30 02:30:00 +0200"}},
		{"after the hour that is left out", "30 2 * * *", berlin, "2026-03-29 03:10:00 +0200", []string{"2026-03-29 03:30:00 +0200"}},
		{"into the hour that comes twice", "30 2 * * *", berlin, "2026-10-24 03:00:00 +0200", []string{"2026-10-25 02:30:00 +0200", "2026-10-26 02:30:00 +0100"}},
		{"every hour, of which one comes twice", "30 * * * *", berlin, "2026-10-25 01:30:00 +0200",
			[]string{"2026-10-25 02:30:00 +0200", "2026-10-25 02:30:00 +0100", "2026-10-25 03:30:00 +0100"}},
		{"every hour, of which one is left out", "@hourly", berlin, "2026-03-29 01:00:00 +0100", []string{"2026-03-29 03:00:00 +0200", "2026-03-29 04:00:00 +0200"}},
		{"a leap day", "0 0 29 2 *", "", "2026-01-01 00:00:00 +0000", []string{"2028-02-29 00:00:00 +0000"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := cron.Parse(c.text, c.zone)
			if err != nil {
				t.Fatal(err)
			}
			since := at(t, "2026-01-01 00:00:00 +0000")
			after := at(t, c.after)
			for _, w := range c.want {
				if got := s.Next(since, after); !got.Equal(at(t, w)) {
					t.Fatalf("after %s comes %s, not %s", after, got, w)
				}
				after = at(t, w)
			}
		})
	}
}

func TestLatest(t *testing.T) {
	for _, c := range []struct{ name, text, after, until, want string }{
		{"none", "0 3 * * *", "2026-01-01 03:00:00 +0000", "2026-01-02 02:59:59 +0000", ""},
		{"the end is one", "0 3 * * *", "2026-01-01 03:00:00 +0000", "2026-01-02 03:00:00 +0000", "2026-01-02 03:00:00 +0000"},
		{"the last of many", "* * * * *", "2020-01-01 03:00:00 +0000", "2026-01-02 03:00:30 +0000", "2026-01-02 03:00:00 +0000"},
		{"the last of every", "@every 7s", "2026-01-01 00:00:00 +0000", "2026-01-01 00:00:27 +0000", "2026-01-01 00:00:21 +0000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := cron.Parse(c.text, "")
			if err != nil {
				t.Fatal(err)
			}
			after := at(t, c.after)
			got, ok := s.Latest(after, after, at(t, c.until))
			if ok != (c.want != "") || ok && !got.Equal(at(t, c.want)) {
				t.Errorf("%v %v", got, ok)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for _, c := range []struct{ text, zone, want string }{
		{"", "", "it is empty"},
		{"  ", "", "it is empty"},
		{"* * * *", "", "expected exactly 5 fields, found 4"},
		{"0 0 0 * * *", "", "expected exactly 5 fields, found 6"},
		{"60 * * * *", "", "above maximum (59)"},
		{"0 0 31 2 *", "", "it never comes"},
		{"@yesterday", "", "unrecognized descriptor"},
		{"@every 10ms", "", "too often"},
		{"TZ=UTC", "", "a field of its own"},
		{"CRON_TZ=UTC 0 3 * * *", "", "a field of its own"},
		{"0 3 * * *", "Europe/Atlantis", "unknown time zone Europe/Atlantis"},
		{"0 3 * * *", "Local", "unknown time zone Local"},
		{"0 3 * * *", "../passwd", "time: invalid location name"},
		{strings.Repeat("1,", 600) + "1 * * * *", "", "are too many"},
	} {
		if _, err := cron.Parse(c.text, c.zone); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q in %q: %v, want %s", c.text, c.zone, err, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"0 3 * * *", "*/5 1-3,7 ? JAN SUN", "@every 1h30m", "TZ=", "@", "0 0 29 2 *", "1/ * * * *"} {
		f.Add(s, "Europe/Berlin", int64(1_800_000_000))
	}
	f.Fuzz(func(t *testing.T, text, zone string, unix int64) {
		s, err := cron.Parse(text, zone)
		if err != nil {
			return
		}
		after := time.Unix(unix%4_000_000_000, 0)
		next := s.Next(after, after)
		if next.IsZero() {
			return // a leap day is more than five years off around 2100
		}
		if !next.After(after) {
			t.Fatalf("%q in %q: %s comes after %s", text, zone, next, after)
		}
		if got, ok := s.Latest(after, after, next); !ok || !got.Equal(next) {
			t.Fatalf("%q in %q: the latest until %s is %s", text, zone, next, got)
		}
		if got, ok := s.Latest(after, after, next.Add(-1)); ok {
			t.Fatalf("%q in %q: before %s comes %s", text, zone, next, got)
		}
	})
}
