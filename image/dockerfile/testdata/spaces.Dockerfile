# check=skip=all
FROM busybox


   # indented comment
   RUN   echo   spaced    
	ENV	A=1	B=2
RUN echo no newline at end