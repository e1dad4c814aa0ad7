"""More answers that are the same, one line a pair: notation, units, words, algebra, sets, choices."""

from __future__ import annotations

import pytest

from answer_table import pairs
from lorid_engine.solver.answers import equivalent

EQUAL = r"""
\{x|x > 3\} | x > 3
\{x|x<0 or x>3\} | (-\infty,0)\cup(3,\infty)
mn | nm
ab+bc | bc+ab
\frac{ab}{c} | \frac{ba}{c}
5m^2 | 5 square meters
5m/s | 5 m/s
5m/s | 5 meters per second
2.5m | 2.5 meters
5L | 5 l
5\,m | 5 m
5 \text{m} | 5m
3x | 3x
(c) | C
(C) 12 | (c) 12
[B] | B
\text{b)} | B
\{x \mid -1 \le x < 2\} | [-1,2)
[1,2]U[3,4] | [1,2]\cup[3,4]
(1,2) U (3,4) | (3,4) U (1,2)
0, \pm 1 | -1, 0, 1
x = 0, \pm 1 | x=0, x=1, x=-1
\{\pm 1, \pm 2\} | \{1,-1,2,-2\}
\pm\sqrt{2} | \sqrt{2}, -\sqrt{2}
1'234 | 1234
12'345.67 | 12345.67
1_234 | 1234
{3 \over 4} | 3/4
{\sqrt{3} \over 2} | \frac{\sqrt{3}}{2}
{x+1 \over 2} | \frac{x+1}{2}
1.\bar{6} | 5/3
1.\overline6 | 5/3
0.\dot{1}4285\dot{7} | 1/7
0.\overline{ 3 } | 1/3
0.4\overline{9} | 0.5
5\quad | 5
5\ \text{cm} | 5 cm
{\bf 5} | 5
\bf{5} | 5
\textbf{5} | 5
\textcolor{blue}{\frac{1}{2}} | 0.5
4^{0.5} | 2
4^0.5 | 2
x^0.5 | \sqrt{x}
\sin^{-1}(x) | \arcsin(x)
\tan^{-1}\frac12 | \arctan(1/2)
AB = \boxed{5} | 5
x=\boxed{5} | 5
Total: 5 | 5
Total cost: $5 | $5
Number of apples: 12 | 12
20 years ago | 20 years
5 feet 6 inches | 5 feet 6 inches
5 feet 6 inches | 5 ft 6 in
5 ft. 6 in. | 5 feet 6 inches
12 years younger | 12 years
6 feet long | 6 ft
1 and 1/2 hours | 1.5 hours
1 and 1/2 hours | 1 1/2 hours
The Cat. | cat
An apple | apple
the ratio | ratio
Up | up
\text{No} | no
$No$ | no
\begin{bmatrix}1&2\\3&4\end{bmatrix} | [[1, 2], [3, 4]]
thirty-six | 36
one hundred percent | 100%
1,000,000,000,000 | 1e12
1,000,000,000,000 | one trillion
$3,000 | three thousand dollars
3k | 3k
0.5 | \frac{5}{10}
0.125 | 1/8
-0.75 | -\frac{3}{4}
.333333333 | \frac{1}{3}
16.6666667 | 50/3
16\frac{2}{3} | 50/3
16 2/3 | 16.66666667
4\frac{1}{2}\text{ hours} | 4.5 hours
\frac{9}{2} \text{ hours} | 4.5 hours
$\dfrac{5}{6}$ | 5/6
\frac{5}{6}\% | \frac{5}{6}
\left(\frac{2}{3}\right)^{2} | 4/9
\left\lvert -5 \right\rvert | 5
\left|{-5}\right| | 5
\sqrt{(3)^2+(4)^2} | 5
\sqrt{3^2+4^2} | 5
\sqrt{ 2 } | \sqrt{2}
2\sqrt{\frac{3}{4}} | \sqrt{3}
\frac{2\sqrt{3}}{6} | \frac{\sqrt{3}}{3}
\frac{\sqrt{12}}{4} | \frac{\sqrt{3}}{2}
\frac{1}{2}\sqrt{3} | \frac{\sqrt{3}}{2}
.5\sqrt{3} | \frac{\sqrt{3}}{2}
\sqrt{1/2} | 1/\sqrt{2}
\sqrt{1000000} | 1000
\sqrt{10^{10}} | 100000
\sqrt[3]{1/8} | 1/2
x^3-6x^2+11x-6 | (x-1)(x-2)(x-3)
(x+y)(x-y) | x^2-y^2
(x+y+z)^2 | x^2+y^2+z^2+2xy+2yz+2xz
(2x+1)(2x-1) | 4x^2-1
x^2(x+1) | x^3+x^2
(x^2)^3 | x^6
x^2x^3 | x^5
\frac{x^5}{x^2} | x^3
\frac{2x}{4} | \frac{x}{2}
-3x+2 | 2-3x
2 - (3x) | -3x + 2
t^2-4t+4 | (t-2)^2
16t^2 | 16 t^{2}
100(1.05)^2 | 110.25
8 - 2\sqrt{15} | (\sqrt{5}-\sqrt{3})^2
\sqrt{8-2\sqrt{15}} | \sqrt{5}-\sqrt{3}
10^{-3} | 0.001
7.0e-4 | 0.0007
3.0 × 10⁸ | 300000000
3.0 \cdot 10^{8} | 300,000,000
5m | 5 m
5m | 5 meters
5g | 5 grams
5s | 5 seconds
5L | 5 liters
5 m | 5 meters
5 g | 5 grams
5 L | 5 liters
5 h | 5 hours
5 s | 5 seconds
6 inches long | 6
5 hours later | 5 hours
2 and 3/4 cups | 2.75 cups
3 1/2 hours | 3.5
3 1/2 | 3\frac12
1-1/2 | 1/2
x=3\frac{1}{2} | 3.5
\frac{1}{3} | 0.33333333
\frac{2}{3} | .66666667
1/6 | 0.1666666667
66.66666667% | 2/3
66.6666667\% | 66\frac23\%
2.5\times 10^6 | 2.5 million
5.00 \times 10^{-3} | 0.005
1 \times 10^{5} | 100,000
10^5 | 100000
10^{5} | 1e5
-1.5e-3 | -0.0015
1.0E+02 | 100
1.2e3 | 1,200
1.2 * 10 ^ 3 | 1200
$1.2 \times 10^3$ | 1200
$12.00$ | 12
$12 | $12$
\$12$ | 12
$\frac{1}{2}$ | \frac{1}{2}
$x = 5$ | 5
$x=5$. | 5
\( x = 5 \) | 5
\[ \frac{1}{2} \] | 0.5
$$x^2+1$$ | 1+x^2
**\frac{1}{2}** | 1/2
**$5** | 5
**5 apples** | 5
The answer is $5. | 5
The answer is \boxed{5}. | 5
So the answer is 5 | 5
Therefore, the answer is 5. | 5
The final answer is $\boxed{5}$. | 5
answer: 5 | 5
Answer is 5 | 5
the answer is: 5 | 5
$\boxed{(1,2)}$ | (1,2)
\boxed{x=5} | 5
\boxed{\text{Monday}} | Monday
\boxed{5} cm | 5 cm
\boxed{\$5} | 5
\boxed{50\%} | 50
\boxed{A} | (A)
\text{(A)} 5 | (A) 5
(A) $5$ | (A) 5
\textbf{(A)}\ 5 | (A) 5
\mathbf{(A)} | A
(A): | A
A: | A
(A). | A
A. 5 | (A) 5
A) 5 | A. 5
Answer is (A) | A
(b) | B
(B) | b)
no | No
No | NO
on | On
ok | OK
the dog | dog
The dog | a dog
The red ball | red ball
John and Mary | John, Mary
John Smith | john smith
\text{John Smith} | John Smith
red, blue | Red, Blue
x^2+2x+1 | (x+1)^2
(x+1)(x+2)(x+3) | x^3+6x^2+11x+6
(a+b)^2 | a^2+2ab+b^2
a^2-b^2 | (a-b)(a+b)
a^3-b^3 | (a-b)(a^2+ab+b^2)
2(l+w) | 2l+2w
lw | wl
\frac{1}{2}bh | \frac{bh}{2}
\pi r^2 | r^2\pi
\pi r^2 | πr²
6x^2 - 7x - 3 | (3x+1)(2x-3)
\frac{x^2-4}{x+2} | x-2
\frac{6}{8} | \frac{3}{4}
\frac{\sqrt{2}}{2} | \frac{1}{\sqrt{2}}
\frac{\sqrt{2}}{2} | 0.7071067812
\frac{\sqrt{2}}{2} | sqrt(2)/2
\frac{\sqrt{2}}{2} | √2/2
\frac{\sqrt{2}}{2} | \sqrt{2}/2
\frac{\sqrt{2}}{2} | \sqrt{0.5}
\sqrt{0.25} | 0.5
\sqrt{18}+\sqrt{8} | 5\sqrt{2}
3\sqrt{5} | \sqrt{45}
\sqrt{72} | 6√2
\sqrt{12} | 12^{1/2}
\sqrt{12} | 12^(1/2)
\sqrt{12} | 12^0.5
\sqrt{12} | 2\cdot\sqrt{3}
\sqrt{12} | 2\times\sqrt{3}
\sqrt{2}^2 | 2
(\sqrt{2})^2 | 2
(2\sqrt{3})^2 | 12
\sqrt{2+\sqrt{3}} | \frac{\sqrt{6}+\sqrt{2}}{2}
\frac{4}{2+\sqrt{2}} | 4-2\sqrt{2}
\frac{4-\sqrt{7}}{3} | \frac{4}{3}-\frac{\sqrt7}{3}
x = \frac{-5\pm\sqrt{13}}{2} | \frac{-5\pm\sqrt{13}}{2}
\sqrt[4]{16} | 2
\sqrt[3]{-8} | -2
\sqrt[3]{x^3} | x
\sqrt[3]{2} | 2^{1/3}
\sqrt[3]{2} | cbrt(2)
\sqrt{x}\sqrt{x} | x
\sqrt{xy} | \sqrt{yx}
\sqrt{4x} | 2\sqrt{x}
\sqrt{a^2+b^2} | \sqrt{b^2+a^2}
1+\frac{1}{x} | \frac{x+1}{x}
x-\frac{1}{x} | \frac{x^2-1}{x}
\frac{2}{x+1} | \frac{-2}{-x-1}
x(x-1)/2 | \frac{x^2-x}{2}
-\frac{x}{2} | \frac{-x}{2}
-(2x+3) | -2x-3
3 - 2x | -2x+3
0.5x+1 | \frac{x}{2}+1
1.5x | \frac{3x}{2}
2x = 10 | x=5
2x-10=0 | x = 5
y-1=2(x-3) | y=2x-5
y = \frac{1}{2}x + 3 | x - 2y + 6 = 0
\frac{x^2}{4}+\frac{y^2}{9}=1 | 9x^2+4y^2=36
(x-1)^2+(y+2)^2=9 | x^2-2x+y^2+4y-4=0
x^2+y^2=1 | x^2 + y^2 - 1 = 0
r = 5 | 5
m\angle A = 30^\circ | 30
\angle A = 30 | 30
P = 0.5 | \frac{1}{2}
f(2) = 5 | 5
f^{-1}(x) = 2x | f^{-1}(x)=2x
|z| = 5 | 5
\text{Area} = 5 | 5
Area = 5 | 5
Total = $5 | $5
Total cost = $5 | 5
5 = 5 | 5
3+2=5 | 5
3 + 2 = 5 apples | 5 apples
2*3 = 6 | 6
$3+2=5$ | 5
x \approx 3.14 | 3.14
x < 5 | 5 > x
x < 5 | (-\infty, 5)
x \leq 5 | (-\infty,5]
x \le 5 | x \leqslant 5
x <= 5 | x ≤ 5
3 < x < 5 | (3,5)
3 < x < 5 | 5 > x > 3
a > 0 | 0 < a
y > 2x+1 | 2x+1 < y
y > 2x + 1 | y - 2x > 1
2x + 4 > 10 | x > 3
-x < 3 | x > -3
x \in (0,1) | (0,1)
x\in\mathbb{R} | \mathbb{R}
x \in \mathbb{R} | all real numbers
\{x \mid x > 3\} | (3, \infty)
\{x : x > 3\} | x > 3
\{1,2,3\} | \{3,1,2\}
\{1, 2, 3\} | \left\{3, 2, 1\right\}
\{-1, 0, 1\} | \{0, \pm 1\}
\{\sqrt{8}\} | \{2\sqrt{2}\}
{5} | \{5\}
\{a,b\} | \{b,a\}
\{\text{red},\text{blue}\} | \{\text{blue},\text{red}\}
\{red, blue\} | \{blue, red\}
(1,2] \cup [3,4) | [3,4) \cup (1,2]
(1,2)\cup(2,3) | (1,2) \cup (2,3)
[1,2] \cup \{3\} | \{3\} \cup [1,2]
[2, ∞) | [2,\infty)
[2, inf) | [2, \infty)
(-inf, inf) | (-\infty, \infty)
(0, 2\pi) | (0, 2π)
[0, \frac{\pi}{2}] | [0, π/2]
(\frac{1}{2}, \frac{3}{4}) | (0.5, 0.75)
(1/2, 3/4) | (0.5, 0.75)
(3, -\frac{\pi}{4}) | \left(3, -\frac{\pi}{4}\right)
(2, 3, -4) | (2,3,-4)
\langle 1, 2, 3 \rangle | \langle 1,2,3\rangle
(1000, 2000) | (1,000, 2,000)
(50\%, 20\%) | (50, 20)
($5, $6) | (5, 6)
(5 cm, 6 cm) | (5, 6)
5 and 6 | 5, 6
3 apples, 4 oranges | 3 apples and 4 oranges
10:00 AM | 10:00 a.m.
10 AM | 10 a.m.
3:05 | 3:05
12:00 | 12:00 pm
1 hour and 30 minutes | 1 hour 30 minutes
1 hr 30 min | 1 hour and 30 minutes
January 1, 2020 | Jan 1, 2020
1st of May | May 1
May 1st | May 1
3 | 3.0
1e3 | 1000
٣٥ | 35
$5 | 5 USD
$5 million | $5,000,000
10\% | 0.10
150% | 1.5
\cfrac{1}{2} | 0.5
\frac{ 1 }{ 2 } | 1/2
2\dfrac{1}{3} | 7/3
1/3 | 0.\overline{33}
twenty-one | 21
one-third | 1/3
fifty percent | 0.5
5 apples | 5 apple
5 m^3 | 5 cubic meters
5 secs | 5 seconds
5 children | 5 child
approximately 5 | 5
`5` | 5
\mathrm{5} | 5
5 = x | x = 5
f(x) = x^2 | x^2
( 1 , 2 ) | (1,2)
\{(1,2),(3,4)\} | \{(3,4),(1,2)\}
x \in [-1, 1] | -1 \le x \le 1
1 or 2 | 2 or 1
\text{A} | A
The answer is (D). | D
True | true
undefined | Undefined
-(x-1) | 1-x
abc | cba
2√3 | 2\sqrt{3}
(1+\sqrt{2})^2 | 3+2\sqrt{2}
4\pi | \pi \cdot 4
e^x | e^{x}
x^{-1} | 1/x
\dbinom{4}{2} | 6
x^2y | yx^2
3:30 \text{ p.m.} | 3:30 pm
\begin{matrix} 1 & 2 \end{matrix} | \begin{pmatrix} 1 & 2 \end{pmatrix}
"""


@pytest.mark.parametrize(("a", "b"), pairs(EQUAL))
def test_same_answer(a: str, b: str) -> None:
    assert equivalent(a, b)
    assert equivalent(b, a)
