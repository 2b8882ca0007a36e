package shim

import (
	"fmt"
	"strings"

	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// ConfigPath returns the path of the configuration file that containerd's
// runtime options name; empty if they name none. The options of runc, which ctr
// sends whatever the runtime, are accepted and mean nothing.
func ConfigPath(options *anypb.Any) (string, error) {
	if options == nil || options.TypeUrl == "" {
		return "", nil
	}
	_, name, ok := strings.Cut(options.TypeUrl, "/")
	if !ok {
		name = options.TypeUrl
	}
	switch {
	case name == "runtimeoptions.v1.Options", name == "cri.runtimeoptions.v1.Options":
		var o runtimeoptions.Options
		if err := proto.Unmarshal(options.Value, &o); err != nil {
			return "", fmt.Errorf("read runtime options: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		return o.ConfigPath, nil
	case strings.HasPrefix(name, "containerd.runc."), strings.HasPrefix(name, "containerd.linux.runc."):
		return "", nil
	}
	return "", fmt.Errorf("read runtime options: unknown type %s: %w", options.TypeUrl, errdefs.ErrInvalidArgument)
}
