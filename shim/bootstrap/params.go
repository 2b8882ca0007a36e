package bootstrap

import (
	"fmt"
	"io"
	"io/fs"
	"os"
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

// configFile returns the configuration that containerd names on the standard
// input of start, which is all that a sandbox without a Create is told of it;
// empty if it names none.
func configFile(stdin *os.File) (string, error) {
	info, err := stdin.Stat()
	if err != nil || info.Mode()&(fs.ModeNamedPipe|fs.ModeSocket) == 0 {
		return "", nil // a terminal, or nothing
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
			return "", fmt.Errorf("read the parameters of start: %w", r.err)
		}
		return configOf(r.params)
	case <-time.After(paramsTimeout):
		return "", nil
	}
}

// The fields of containerd's messages.
const (
	fieldExtensions = 8 // of BootstrapParams
	fieldValue      = 1 // of Extension: an Any
)

// configOf finds the configuration in what containerd sends: from 2.3 on a
// BootstrapParams with the runtime's options among its extensions, before that
// the options themselves as an Any. The two are told apart by the extensions.
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
