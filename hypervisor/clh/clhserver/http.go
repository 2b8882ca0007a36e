package clhserver

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxHead is the longest request or header line, its CRLF included.
const maxHead = 1024

const (
	serverAPI   = "Cloud Hypervisor API"
	serverMicro = "Firecracker API" // what the HTTP library says of itself
)

// request is one HTTP request with the descriptors that came along.
type request struct {
	method string
	path   string // "/api/v1/vm.info"
	body   []byte
	files  []*os.File
}

// badHTTP is a request that is no HTTP as micro-http understands it. What
// follows on the connection cannot be made sense of.
type badHTTP struct{ text string }

func (b badHTTP) Error() string { return b.text }

// readRequest reads one request. It returns io.EOF if the stream ends between
// requests, badHTTP for one that is malformed.
func readRequest(r *bufio.Reader, maxBody int, interim io.Writer) (*request, error) {
	line, err := readLine(r)
	if err != nil {
		return nil, err
	}
	req, err := parseRequestLine(line)
	if err != nil {
		return nil, err
	}
	length, expect, err := readHeaders(r)
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	if length > maxBody {
		return nil, badHTTP{fmt.Sprintf("The maximum body size is %d bytes.", maxBody)}
	}
	if expect && length > 0 {
		if _, err := io.WriteString(interim, "HTTP/1.1 100 \r\nServer: "+serverMicro+"\r\nConnection: keep-alive\r\n\r\n"); err != nil {
			return nil, err
		}
	}
	// A chunked body is not decoded: without a length there is none.
	if length > 0 {
		req.body = make([]byte, length)
		if _, err := io.ReadFull(r, req.body); err != nil {
			return nil, io.ErrUnexpectedEOF
		}
	}
	return req, nil
}

func readLine(r *bufio.Reader) (string, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case len(line) > maxHead:
			return "", badHTTP{"Invalid header: a line is longer than 1024 bytes."}
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err != nil && len(line) > 0:
			return "", io.ErrUnexpectedEOF
		case err != nil:
			return "", err
		case !bytes.HasSuffix(line, []byte("\r\n")):
			continue // a bare LF ends nothing
		}
		return string(line[:len(line)-2]), nil
	}
}

func parseRequestLine(line string) (*request, error) {
	parts := strings.Split(line, " ")
	if len(parts) != 3 {
		return nil, badHTTP{"Invalid HTTP Request Line."}
	}
	switch parts[0] {
	case "GET", "PUT", "PATCH":
	default:
		return nil, badHTTP{"Invalid HTTP Method."}
	}
	if parts[2] != "HTTP/1.0" && parts[2] != "HTTP/1.1" {
		return nil, badHTTP{"Unsupported HTTP version."}
	}
	uri := parts[1]
	if rest, ok := strings.CutPrefix(uri, "http://"); ok {
		i := strings.IndexByte(rest, '/')
		if i < 0 {
			return nil, badHTTP{"Invalid URI."}
		}
		uri = rest[i:]
	}
	if !strings.HasPrefix(uri, "/") {
		return nil, badHTTP{"Invalid URI."}
	}
	return &request{method: parts[0], path: uri}, nil
}

// readHeaders reads to the empty line and understands what micro-http does.
func readHeaders(r *bufio.Reader) (length int, expect bool, err error) {
	for {
		line, err := readLine(r)
		if err != nil {
			return 0, false, err
		}
		if line == "" {
			return length, expect, nil
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || !utf8.ValidString(line) {
			return 0, false, badHTTP{"Invalid header format."}
		}
		value = strings.TrimSpace(value)
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "content-length":
			n, err := strconv.ParseUint(value, 10, 32)
			if err != nil {
				return 0, false, badHTTP{"Invalid value for header Content-Length."}
			}
			length = int(n)
		case "expect":
			expect = strings.EqualFold(value, "100-continue")
		}
	}
}

// writeResponse writes an answer with an empty reason phrase, as micro-http does.
func writeResponse(w io.Writer, status int, server string, body []byte) error {
	var b bytes.Buffer
	connection := "keep-alive"
	fmt.Fprintf(&b, "HTTP/1.1 %d \r\nServer: %s\r\n", status, server)
	if status == 503 {
		connection = "close"
	}
	fmt.Fprintf(&b, "Connection: %s\r\n", connection)
	if len(body) > 0 {
		fmt.Fprintf(&b, "Content-Type: application/json\r\n")
	}
	if len(body) > 0 || status != 204 {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(body))
	}
	b.WriteString("\r\n")
	b.Write(body)
	_, err := w.Write(b.Bytes())
	return err
}
