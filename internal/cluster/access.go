package cluster

import (
	"path"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
)

// The labels of a service that ask for what Docker refuses a service, and the label of the swarm that allows them; see
// docs/adr/0004.
const (
	LabelPrivileged      = "shoal.privileged"       // a boolean
	LabelDevices         = "shoal.devices"          // HOST[:CONTAINER[:PERMISSIONS]], separated by commas
	LabelAllowPrivileged = "shoal.allow-privileged" // a boolean, of the swarm
)

// Access is what a service's containers are given of their nodes beyond what Docker gives those of a service.
type Access struct {
	Privileged bool                      `json:",omitempty"`
	Devices    []container.DeviceMapping `json:",omitempty"`
}

var deviceAccess = regexp.MustCompile(`^[rwm]{1,3}$`)

// ParseAccess reads what a service's labels ask for; nil is nothing. The error is InvalidArgument.
func ParseAccess(labels map[string]string) (*Access, error) {
	a := Access{}
	if v, ok := labels[LabelPrivileged]; ok {
		on, err := strconv.ParseBool(v)
		if err != nil {
			return nil, invalid("invalid label %s=%s: it must be true or false", LabelPrivileged, v)
		}
		a.Privileged = on
	}
	if v := labels[LabelDevices]; v != "" {
		inside := map[string]bool{}
		for _, term := range strings.Split(v, ",") {
			d, err := parseDevice(term)
			if err != nil {
				return nil, err
			}
			if inside[d.PathInContainer] {
				return nil, invalid("invalid label %s: duplicate device path in the container: %s", LabelDevices, d.PathInContainer)
			}
			inside[d.PathInContainer] = true
			a.Devices = append(a.Devices, d)
		}
	}
	if reflect.ValueOf(a).IsZero() {
		return nil, nil
	}
	return &a, nil
}

// parseDevice reads what `run --device` takes.
func parseDevice(term string) (container.DeviceMapping, error) {
	parts := strings.Split(strings.TrimSpace(term), ":")
	d := container.DeviceMapping{PathOnHost: parts[0], PathInContainer: parts[0], CgroupPermissions: "rwm"}
	switch {
	case len(parts) == 2 && deviceAccess.MatchString(parts[1]):
		d.CgroupPermissions = parts[1]
	case len(parts) == 3 && !deviceAccess.MatchString(parts[2]):
		return d, invalid("invalid device mode: %s", parts[2])
	case len(parts) == 3:
		d.PathInContainer, d.CgroupPermissions = parts[1], parts[2]
	case len(parts) == 2:
		d.PathInContainer = parts[1]
	case len(parts) > 3:
		return d, invalid("invalid device specification: %s", term)
	}
	for _, p := range []string{d.PathOnHost, d.PathInContainer} {
		if !path.IsAbs(p) {
			return d, invalid("invalid device specification: %q is not an absolute path", p)
		}
	}
	return d, nil
}

// AccessOf is what the service asks for. What cannot be read asks for nothing; control lets none of it in.
func AccessOf(s *Service) *Access {
	a, err := ParseAccess(s.Spec.Labels)
	if err != nil {
		return nil
	}
	return a
}

// AllowsAccess says whether the swarm gives services what their labels ask for beyond Docker's. A swarm does not unless
// its settings say so.
func AllowsAccess(s *Swarm) bool {
	if s == nil {
		return false
	}
	on, err := strconv.ParseBool(s.Spec.Labels[LabelAllowPrivileged])
	return err == nil && on
}
