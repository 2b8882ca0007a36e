package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"io"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/containerd/content"
	"github.com/containerd/containerd/content/proxy"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// maxMessage is the size in bytes of the largest message taken from containerd,
// its own default.
const maxMessage = 16 << 20

// DialContent returns the content and image store of the containerd at a unix socket. It
// connects when first asked, and again after a loss.
func DialContent(socket string) (Content, io.Closer, error) {
	conn, err := grpc.NewClient("unix://"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.WaitForReady(false)))
	if err != nil {
		return nil, nil, fmt.Errorf("content store of containerd at %s: %w", socket, err)
	}
	blobs := contentapi.NewContentClient(conn)
	return containerdContent{proxy.NewContentStore(blobs), blobs, imagesapi.NewImagesClient(conn)}, conn, nil
}

// containerdContent is the content and image store of a containerd.
type containerdContent struct {
	content.Store
	blobs  contentapi.ContentClient
	images imagesapi.ImagesClient
}

// Stream reads a blob in one request. containerd sends ahead of the reader.
func (c containerdContent) Stream(ctx context.Context, d digest.Digest) io.Reader {
	return &blobStream{ctx: ctx, blobs: c.blobs, digest: d}
}

// blobStream is a request for a whole blob, made at the first Read.
type blobStream struct {
	ctx    context.Context // of the one request that this is
	blobs  contentapi.ContentClient
	digest digest.Digest
	call   contentapi.Content_ReadClient
	rest   []byte // received and not read
}

func (s *blobStream) Read(b []byte) (int, error) {
	if s.call == nil {
		call, err := s.blobs.Read(s.ctx, &contentapi.ReadContentRequest{Digest: s.digest.String()})
		if err != nil {
			return 0, s.failed(err)
		}
		s.call = call
	}
	for len(s.rest) == 0 {
		m, err := s.call.Recv()
		if errors.Is(err, io.EOF) {
			return 0, io.EOF
		}
		if err != nil {
			return 0, s.failed(err)
		}
		s.rest = m.GetData()
	}
	n := copy(b, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

func (s *blobStream) failed(err error) error {
	return fmt.Errorf("read blob %s from containerd: %w", s.digest, errgrpc.ToNative(err))
}

func (c containerdContent) Images(ctx context.Context) ([]Image, error) {
	reply, err := c.images.List(ctx, new(imagesapi.ListImagesRequest))
	if err != nil {
		return nil, errgrpc.ToNative(err)
	}
	var list []Image
	for _, i := range reply.GetImages() {
		list = append(list, Image{Name: i.GetName(), Target: digest.Digest(i.GetTarget().GetDigest())})
	}
	return list, nil
}
