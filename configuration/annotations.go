package configuration

import (
	"encoding/base64"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

const (
	annotationPrefix     = "io.katacontainers.config."
	annotationHypervisor = annotationPrefix + "hypervisor."
	annotationPolicy     = annotationPrefix + "agent.policy"
)

// Override applies the annotations with which a pod may change its machine, and
// returns the changed configuration. enable_annotations must allow each by its
// name after "io.katacontainers.config.hypervisor."; default_vcpus,
// default_memory and kernel_params are known. Any other annotation below
// "io.katacontainers.config." is refused, but for the policy, which Policy reads.
func (c *Config) Override(annotations map[string]string) (*Config, error) {
	o := *c
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		if !strings.HasPrefix(key, annotationPrefix) || key == annotationPolicy {
			continue
		}
		if err := o.override(key, annotations[key]); err != nil {
			return nil, fmt.Errorf("annotation %s: %w", key, err)
		}
	}
	return &o, nil
}

func (c *Config) override(key, value string) error {
	name, ok := strings.CutPrefix(key, annotationHypervisor)
	if !ok {
		return fmt.Errorf("a pod may not set this: %w", errdefs.ErrNotImplemented)
	}
	allowed := false
	for _, e := range c.enabled {
		allowed = allowed || e.MatchString(name)
	}
	if !allowed {
		return fmt.Errorf("%s is not among enable_annotations in %s: %w", name, c.Path, errdefs.ErrPermissionDenied)
	}
	switch name {
	case "default_vcpus":
		n, err := strconv.ParseFloat(value, 64)
		if err != nil || math.IsNaN(n) || n < 0 || n > float64(c.hostCPUs) {
			return fmt.Errorf("%q is not a number from 0 to the %d processors of the host: %w", value, c.hostCPUs, errdefs.ErrInvalidArgument)
		}
		c.Hypervisor.DefaultVCPUs = n
	case "default_memory":
		n, err := strconv.ParseUint(value, 10, 32)
		if err != nil || n < minMemoryMiB {
			return fmt.Errorf("%q is not a number of MiB from %d on: %w", value, minMemoryMiB, errdefs.ErrInvalidArgument)
		}
		c.Hypervisor.DefaultMemoryMiB = n
	case "kernel_params":
		if c.Hypervisor.Confidential {
			return fmt.Errorf("a machine with protected memory has the command line of its launch image: %w", errdefs.ErrFailedPrecondition)
		}
		if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }) {
			return fmt.Errorf("%q has characters that do not belong on a command line: %w", value, errdefs.ErrInvalidArgument)
		}
		c.Hypervisor.KernelParams = strings.TrimSpace(c.Hypervisor.KernelParams + " " + value)
	default:
		return fmt.Errorf("unknown: %w", errdefs.ErrNotImplemented)
	}
	return nil
}

// Policy reads the text of the policy that a pod brings for its guest; ok is
// false if it brings none.
func Policy(annotations map[string]string) (text string, ok bool, err error) {
	value, ok := annotations[annotationPolicy]
	if !ok {
		return "", false, nil
	}
	b, err := base64.StdEncoding.DecodeString(value)
	if err != nil {
		return "", false, fmt.Errorf("annotation %s: %w: %w", annotationPolicy, err, errdefs.ErrInvalidArgument)
	}
	return string(b), true, nil
}
