FROM busybox
RUN echo dos \
  line
COPY <<EOF /x
content
EOF
CMD ["x"]
