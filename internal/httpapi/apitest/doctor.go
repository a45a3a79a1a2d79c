package apitest

import (
	"context"

	"shoal.dev/shoal/internal/doctor"
	"shoal.dev/shoal/internal/httpapi"
)

// Doctor finds what it is told to, and notes whom it was asked for.
type Doctor struct {
	Report doctor.Report
	Peers  []string
}

func (d *Doctor) Examine(_ context.Context, peers []string) *doctor.Report {
	d.Peers = peers
	return &d.Report
}

var _ httpapi.Doctor = (*Doctor)(nil)
