package bootstrap

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/kata-cc/kata-cc/shim"
)

const (
	// maxParams is the longest standard input worth reading, in bytes.
	maxParams = 1 << 20
	// paramsTimeout bounds the wait for its end: somebody who calls start by hand
	// may leave it open.
	paramsTimeout = time.Second
)

// envConfig names the configuration to the server; a file that a Create's options
// name comes first.
const envConfig = "KATA_CONF_FILE"

// readParams reads what containerd gives start on its standard input; nil if it
// gives nothing.
func readParams(stdin *os.File) ([]byte, error) {
	info, err := stdin.Stat()
	if err != nil || info.Mode()&(fs.ModeNamedPipe|fs.ModeSocket) == 0 {
		return nil, nil // a terminal, or nothing
	}
	type result struct {
		params []byte
		err    error
	}
	read := make(chan result, 1)
	go func() { // ends with the process at the latest, which start soon does
		params, err := io.ReadAll(io.LimitReader(stdin, maxParams))
		read <- result{params, err}
	}()
	select {
	case r := <-read:
		if r.err != nil {
			return nil, fmt.Errorf("read the parameters of start: %w", r.err)
		}
		return r.params, nil
	case <-time.After(paramsTimeout):
		return nil, nil
	}
}

// The fields of containerd's messages.
const (
	fieldInstance   = 1 // of BootstrapParams: the id
	fieldExtensions = 8 // of BootstrapParams
	fieldValue      = 1 // of Extension: an Any

	fieldVersion  = 1 // of BootstrapResult
	fieldAddress  = 2
	fieldProtocol = 3
)

// apiVersion is that of the task service: containerd.task.v2.
const apiVersion = 2

// envMaxVersion is where containerd says up to which version of the task service
// it speaks.
const envMaxVersion = "MAX_SHIM_VERSION"

// answer is what start answers: a BootstrapResult to whoever sends a
// BootstrapParams for this id, the same as JSON to whoever says that he knows of
// versions above ours, which no release of containerd does though all from 1.7 on
// read it, and the plain address, which every containerd reads, to all others.
func answer(params []byte, id, address string, maxVersion int) (string, error) {
	ids, err := fields(params, fieldInstance)
	if err == nil && len(ids) == 1 && string(ids[0]) == id {
		r := protowire.AppendVarint(protowire.AppendTag(nil, fieldVersion, protowire.VarintType), apiVersion)
		r = protowire.AppendString(protowire.AppendTag(r, fieldAddress, protowire.BytesType), address)
		r = protowire.AppendString(protowire.AppendTag(r, fieldProtocol, protowire.BytesType), "ttrpc")
		return string(r), nil
	}
	if maxVersion <= apiVersion {
		return address, nil
	}
	text, err := json.Marshal(struct {
		Version  int    `json:"version"`
		Address  string `json:"address"`
		Protocol string `json:"protocol"`
	}{apiVersion, address, "ttrpc"})
	return string(text), err
}

// maxVersion is what containerd says of itself; 0 if it says nothing.
func maxVersion() int {
	n, err := strconv.Atoi(os.Getenv(envMaxVersion))
	if err != nil {
		return 0
	}
	return n
}

// configOf finds the configuration in what containerd sends, which is all that a
// sandbox without a Create is told of it; empty if it names none. From 2.3 on it
// sends a BootstrapParams with the runtime's options among its extensions, before
// that the options themselves as an Any. Extensions tell the two apart.
func configOf(params []byte) (string, error) {
	extensions, err := fields(params, fieldExtensions)
	if err != nil {
		return "", err
	}
	for _, e := range extensions {
		values, err := fields(e, fieldValue)
		if err != nil {
			return "", err
		}
		for _, v := range values {
			if path := pathIn(v); path != "" {
				return path, nil
			}
		}
	}
	return pathIn(params), nil
}

// pathIn reads an Any. What is none, or of another type, names no file.
func pathIn(message []byte) string {
	var options anypb.Any
	if proto.Unmarshal(message, &options) != nil {
		return ""
	}
	path, err := shim.ConfigPath(&options)
	if err != nil {
		return ""
	}
	return path
}

// fields returns every value of a field that has a length.
func fields(message []byte, number protowire.Number) ([][]byte, error) {
	var values [][]byte
	for len(message) > 0 {
		n, kind, length := protowire.ConsumeTag(message)
		if length < 0 {
			return nil, fmt.Errorf("parameters of start: %w: %w", protowire.ParseError(length), errdefs.ErrInvalidArgument)
		}
		message = message[length:]
		if length = protowire.ConsumeFieldValue(n, kind, message); length < 0 {
			return nil, fmt.Errorf("parameters of start: %w: %w", protowire.ParseError(length), errdefs.ErrInvalidArgument)
		}
		if n == number && kind == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(message)
			values = append(values, value)
		}
		message = message[length:]
	}
	return values, nil
}
