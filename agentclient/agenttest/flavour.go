package agenttest

import (
	"fmt"
	"regexp"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

func (f Flavour) isAzl() bool { return f == Azl1 || f == Azl5 }

// unsupported answers a request that the agent does not implement.
func (f Flavour) unsupported(method string) error {
	if f.isAzl() {
		return status.Errorf(codes.NotFound, "%s is not supported", method)
	}
	return status.Errorf(codes.Unimplemented, "%s is not supported", method)
}

// chain is the debug form of an error in Rust.
func chain(text string) string {
	return text + "\n\nCaused by:\n    0: rpc\n\nStack backtrace:\n   0: anyhow::error"
}

func (f Flavour) noContainer(id string) error {
	switch {
	case f.isAzl():
		return status.Error(codes.Internal, chain("Invalid container id"))
	case f == Upstream:
		return status.Error(codes.InvalidArgument, "InvalidContainerId")
	}
	return status.Errorf(codes.NotFound, "Invalid container id %s", id)
}

func (f Flavour) noProcess(exec string) error {
	switch {
	case f.isAzl():
		return status.Error(codes.Internal, chain("Invalid exec id"))
	case f == Upstream:
		return status.Error(codes.NotFound, "InvalidExecId")
	}
	return status.Errorf(codes.NotFound, "Invalid exec id %s", exec)
}

// endOfStream answers a read at the end of the output.
func (f Flavour) endOfStream() (*agentpb.ReadStreamResponse, error) {
	if f.isAzl() {
		return nil, status.Error(codes.Internal, chain("read meet eof"))
	}
	return &agentpb.ReadStreamResponse{}, nil
}

// interrupted answers a read that was pending when something else happened.
func (f Flavour) interrupted() (*agentpb.ReadStreamResponse, error) {
	if f.isAzl() {
		return nil, status.Error(codes.Internal, `"eof"`)
	}
	return &agentpb.ReadStreamResponse{}, nil
}

func (f Flavour) version() string {
	switch f {
	case Azl1:
		return "3.2.0.azl1"
	case Azl5:
		return "3.2.0.azl5"
	case Upstream:
		return "4.1.0"
	}
	return "kata-cc"
}

var (
	bdfForm  = regexp.MustCompile(`^[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$`)
	pathForm = regexp.MustCompile(`^[0-9a-f]{2}(\.[0-7])?(/[0-9a-f]{2}(\.[0-7])?)*$`)
)

// checkDisk refuses the position of a disk in a form that the agent cannot read.
func (f Flavour) checkDisk(source string) error {
	bdf, path := bdfForm.MatchString(source), pathForm.MatchString(source)
	switch {
	case f.isAzl() && !bdf:
		return fmt.Errorf("PCI address %s should have the format DDDD:BB:SS.F", source)
	case f == Upstream && !path, !bdf && !path:
		return fmt.Errorf("PCI path %s should have the format SS/SS", source)
	}
	return nil
}
