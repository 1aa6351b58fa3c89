FROM busybox
RUN --security=insecure --network=host true
RUN --mount=target=/x true
RUN --mount=type=tmpfs,target=/t,size=10m --mount=type=cache,id=c,sharing=locked,target=/c,mode=0700,uid=1,gid=2 true
RUN --mount=type=bind,from=busybox,src=/bin,dst=/b,ro=false -- echo x
RUN --mount=type=secret,id=s,env=S,mode=0440 true
RUN --mount=type=cache,target=$HOME/.cache true
COPY --chown="1:2" "a b" 'c' /d/
COPY --from=busybox /bin/sh /sh
