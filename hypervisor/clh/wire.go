package clh

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// maxAnswer bounds an answer; vm.info with hundreds of disks is below 1 MiB.
const maxAnswer = 16 << 20

// wire carries out HTTP requests of the generated client, one connection each:
// whatever became of a request, the next is not affected. It writes a request
// in one piece, with the descriptors that withRights put in its context, as the
// VMM's HTTP server wants it.
type wire struct{ socket string }

type rightsKey struct{}

// withRights has the files travel with the request.
func withRights(ctx context.Context, files []*os.File) context.Context {
	return context.WithValue(ctx, rightsKey{}, files)
}

func (w wire) Do(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", w.socket)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	conn := c.(*net.UnixConn)
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	if err = send(ctx, conn, req); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	// Up to version 38 an empty answer has no length and no end either.
	if resp.ContentLength < 0 && len(resp.TransferEncoding) == 0 {
		resp.Body = http.NoBody
		return resp, nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	if len(body) > maxAnswer {
		return nil, fmt.Errorf("read the answer: longer than %d bytes", maxAnswer)
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

func send(ctx context.Context, conn *net.UnixConn, req *http.Request) error {
	var b bytes.Buffer
	if err := req.Write(&b); err != nil {
		return err
	}
	files, _ := ctx.Value(rightsKey{}).([]*os.File)
	var oob []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		oob = unix.UnixRights(fds...)
	}
	n, _, err := conn.WriteMsgUnix(b.Bytes(), oob, nil)
	if err == nil && n < b.Len() {
		_, err = conn.Write(b.Bytes()[n:])
	}
	if err != nil {
		return fmt.Errorf("send the request: %w", err)
	}
	return nil
}
