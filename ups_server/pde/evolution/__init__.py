"""Evolution equations in one dimension, ``u_t = sum_k c_k T_k(u) + f(x)``: terms, equations, states, solver."""
